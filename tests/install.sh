#!/usr/bin/env bash
# What the tests need beside Python packages. Each server is started by the tests themselves, on a free
# port of 127.0.0.1 in a temporary directory; nothing here starts or touches a system service.
set -euo pipefail

# h2spec asks a server for each rule of HTTP/2. It is a Go program: its test is left out where there is no Go.
if command -v go >/dev/null && ! command -v h2spec >/dev/null && [ ! -x "${BIN:=.venv/bin}/h2spec" ]; then
  said=$(GOBIN=$(cd "$BIN" && pwd) GOFLAGS=-mod=mod go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible 2>&1) ||
    echo "tests: h2spec could not be built (${said##*$'\n'}); its test is left out" >&2
fi

missing=()
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || missing+=(mariadb-server)
[ -x /usr/sbin/krb5kdc ] && [ -x /usr/sbin/kadmin.local ] || missing+=(krb5-kdc krb5-admin-server krb5-user)
# gssapi has no wheels: it is compiled.
command -v krb5-config >/dev/null || missing+=(libkrb5-dev)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
# The executable is built, and run in roots that have another C library or none.
[ -e /usr/include/zstd.h ] && command -v zstd >/dev/null || missing+=(zstd libzstd-dev)
command -v readelf >/dev/null || missing+=(binutils)
ls /lib/ld-musl-*.so.1 >/dev/null 2>&1 || missing+=(musl)
# The usual busybox is linked dynamically.
dpkg-query --show busybox-static >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null || missing+=(busybox-static)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "tests: install ${missing[*]} with this system's package manager; until then their tests are left out" >&2
  exit 0
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
  root=(sudo -n)
  "${root[@]}" true 2>/dev/null || {
    echo "tests: ask an administrator to run: apt-get install ${missing[*]}; until then their tests are left out" >&2
    exit 0
  }
fi
# RUNLEVEL=1: install, and start nothing.
"${root[@]}" apt-get -qq update
"${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
