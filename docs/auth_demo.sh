#!/usr/bin/env bash
# Both logins from nothing to a running server; docs/auth.md shows the output. Makes a KDC and a PostgreSQL server
# on loopback, in a directory of their own, and takes them away again. Needs what tests/install.sh installs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
work=$(mktemp -d); chmod 755 "$work"
here=$PWD; pids=()
export PATH="$here/.venv/bin:$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin | tail -1)"
export KRB5_CONFIG=$work/krb5.conf KRB5_KDC_PROFILE=$work/kdc.conf PYTHONPATH=$here
unset KRB5_KTNAME KRB5CCNAME
end() { as_postgres pg_ctl stop -D "$work/pg/data" -m fast >/dev/null 2>&1
  for pid in "${pids[@]}"; do kill "$pid"; wait "$pid"; done 2>/dev/null; rm -rf "$work"; }
trap end EXIT

free() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
said() { # as one would type it
  local line="$" word
  for word in "$@"; do [[ $word == *[\ \?\&\']* ]] && word="'$word'"; line+=" $word"; done
  echo "$line"
}
show() { said "$@"; "$@" 2>&1; echo; }
serve() { # runs on; returns when its metrics say that it is ready
  said "$@"; "$@" >log 2>&1 & pids+=($!)
  for _ in $(seq 100); do python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$health/readyz')" 2>/dev/null && break
    sleep 0.2; done
  cat log; echo
}
ask() {
  show etcdctl --endpoints "127.0.0.1:$listen" put /greeting hello
  show etcdctl --endpoints "127.0.0.1:$listen" get /greeting
}
as_postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
kdc=$(free) database=$(free) listen=$(free) health=$(free)
cd "$work" || exit 2

cat > krb5.conf <<END
[libdefaults]
  default_realm = EXAMPLE.COM
  rdns = false
[realms]
  EXAMPLE.COM = {
    kdc = 127.0.0.1:$kdc
  }
[domain_realm]
  localhost = EXAMPLE.COM
END
cat > kdc.conf <<END
[kdcdefaults]
  kdc_listen = 127.0.0.1:$kdc
  kdc_tcp_listen = 127.0.0.1:$kdc
[realms]
  EXAMPLE.COM = {
    database_name = $work/principals
    key_stash_file = $work/stash
  }
END

echo '## Kerberos'; echo
show cat krb5.conf
show kdb5_util create -s -r EXAMPLE.COM -P secret
said krb5kdc -n; echo; krb5kdc -n >kdc.log 2>&1 & pids+=($!)
show kadmin.local addprinc -randkey kine
show kadmin.local addprinc -randkey postgres/localhost
show kadmin.local ktadd -k kine.keytab kine
show kadmin.local ktadd -k server.keytab postgres/localhost

mkdir pg; [ "$(id -u)" = 0 ] && chown postgres pg server.keytab
said initdb -D pg/data -U postgres; as_postgres initdb -D pg/data -U postgres --no-sync >/dev/null 2>&1
cat > pg/data/pg_hba.conf <<END
local all postgres trust
host all kine 127.0.0.1/32 gss include_realm=0 krb_realm=EXAMPLE.COM
END
show cat pg/data/pg_hba.conf
run=(postgres -D pg/data -p "$database" -k "$work/pg" -c "krb_server_keyfile=$work/server.keytab")
said "${run[@]}"; echo; as_postgres "${run[@]}" -c listen_addresses=127.0.0.1 >pg.log 2>&1 & pids+=($!)
sleep 0.2; for _ in $(seq 100); do pg_isready -q -h "$work/pg" -p "$database" && break; sleep 0.1; done
show psql -q -h "$work/pg" -p "$database" -U postgres -c 'CREATE ROLE kine LOGIN CREATEDB'
serve kine --listen-address "127.0.0.1:$listen" --metrics-bind-address "127.0.0.1:$health" \
  --endpoint "postgres://kine@localhost:$database/kine?krb5_keytab=kine.keytab"
ask
show psql -h "$work/pg" -p "$database" -U postgres -c \
  'SELECT DISTINCT usename, principal, gss_authenticated FROM pg_stat_gssapi JOIN pg_stat_activity USING (pid) WHERE principal IS NOT NULL'
kill "${pids[-1]}"; wait "${pids[-1]}"; unset 'pids[-1]'

echo '## RDS IAM'; echo
# In the place of RDS: the gate of our tests, which lets in who presents the token that AWS' rules say, over TLS.
python -c 'import time
from tests.servers import iam
behind = iam.checked()
print(behind.gate.port, behind.ca_file, flush=True)
time.sleep(60)' >gate & pids+=($!)
until [ -s gate ]; do sleep 0.1; done
read -r gate ca < gate; cp "$ca" ca.pem
listen=$(free) health=$(free)
export AWS_ACCESS_KEY_ID=AKIDEXAMPLE AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY
export AWS_REGION=eu-central-1 AWS_EC2_METADATA_DISABLED=true
serve kine --identity-provider aws --ca-file ca.pem \
  --listen-address "127.0.0.1:$listen" --metrics-bind-address "127.0.0.1:$health" \
  --endpoint "postgres://kine_app@127.0.0.1:$gate/kine"
ask
kill "${pids[-1]}"; wait "${pids[-1]}"; unset 'pids[-1]'
echo '# and with another key than the one AWS knows'
export AWS_SECRET_ACCESS_KEY=another
show timeout -s INT 3 kine --identity-provider aws --ca-file ca.pem \
  --listen-address "127.0.0.1:$listen" --metrics-bind-address "127.0.0.1:$health" \
  --endpoint "postgres://kine_app@127.0.0.1:$gate/kine"
