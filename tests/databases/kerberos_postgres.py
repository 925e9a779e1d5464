"""PostgreSQL with Kerberos (GSSAPI) authentication, and its KDC; only `postgres` has a password."""

from __future__ import annotations

import shutil
from pathlib import Path

import trustme

from tests.databases import kdc, postgres
from tests.databases.process import unprivileged

ROLE = "kine"
SERVICE = f"postgres/localhost@{kdc.REALM}"
RULES = """\
host       all gated 127.0.0.1/32 trust
host       all postgres 127.0.0.1/32 scram-sha-256
hostgssenc all encrypted 127.0.0.1/32 gss include_realm=0
hostssl    all tls 127.0.0.1/32 gss include_realm=0
hostnogssenc all plain 127.0.0.1/32 gss include_realm=0
host       all kine 127.0.0.1/32 gss include_realm=0 krb_realm=KINE.TEST
host       all partner 127.0.0.1/32 gss include_realm=0 krb_realm=PARTNER.TEST
"""


def missing() -> str:
    return postgres.missing() or kdc.missing()


class Kerberized:
    def __init__(self, *settings: str) -> None:
        self.kdc = kdc.Kdc()
        self.kdc.add(SERVICE)
        self.kdc.add(ROLE)
        self.server_keytab = self.kdc.directory / "server.keytab"
        self.renew_server_key()
        self.postgres = postgres.Postgres(f"krb_server_keyfile={self.server_keytab}", *settings)
        (self.postgres.directory / "data" / "pg_hba.conf").write_text(RULES)
        with self.postgres.admin() as admin:
            admin.execute("SELECT pg_reload_conf()")
            for role in (ROLE, "encrypted", "tls", "plain", "partner"):
                admin.execute(f"CREATE ROLE {role} LOGIN CREATEDB")
        self.keytab = self.kdc.keytab(ROLE, self.kdc.directory / "kine.keytab", "-norandkey")

    def trust_gated(self) -> None:
        """Creates the role `gated`, which connects through a gate that has checked its ticket."""
        self.kdc.add("gated")
        self.gated_keytab = self.kdc.keytab("gated", self.kdc.directory / "gated.keytab", "-norandkey")
        with self.postgres.admin() as admin:
            admin.execute("CREATE ROLE gated LOGIN CREATEDB")

    def use_tls(self) -> trustme.CA:
        """Makes the server offer TLS too, as localhost, with a certificate of the returned CA."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        data = self.postgres.directory / "data"
        issued.private_key_pem.write_to_path(str(data / "server.key"))
        issued.cert_chain_pems[0].write_to_path(str(data / "server.crt"))
        (data / "server.key").chmod(0o600)
        if user := unprivileged("postgres"):
            shutil.chown(data / "server.key", user)
            shutil.chown(data / "server.crt", user)
        with self.postgres.admin() as admin:
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")
        return authority

    def renew_server_key(self) -> None:
        """Replaces the server's key, so that the old one is no longer valid."""
        self.kdc.keytab(SERVICE, self.server_keytab)
        if user := unprivileged("postgres"):
            shutil.chown(self.server_keytab, user)

    def endpoint(self, database: str, parameters: str, *, user: str = ROLE) -> str:
        return f"postgres://{user}@localhost:{self.postgres.port}/{database}?{parameters}"

    def by_keytab(self, database: str, keytab: Path | None = None) -> str:
        return self.endpoint(database, f"krb5_keytab={keytab or self.keytab}")

    def stop(self) -> None:
        self.postgres.stop()
        self.kdc.stop()
