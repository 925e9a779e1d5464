"""MIT Kerberos KDC with its own realm, principals and keytabs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.databases.process import DatabaseServer, directory, free_port

REALM = "KINE.TEST"
_PATH = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ.get("PATH", "")])


def missing() -> str:
    if find_spec("gssapi") is None:
        return "no gssapi (the extra kerberos)"
    absent = [name for name in ("krb5kdc", "kdb5_util", "kadmin.local", "kinit") if not _program(name)]
    return f"no {', '.join(absent)} (bash tests/install.sh)" if absent else ""


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or ""


class Kdc:
    def __init__(self, realm: str = REALM) -> None:
        self.realm = realm
        self.directory = directory("kdc", None)
        self.port = free_port()
        self.config = self.directory / "krb5.conf"
        self.config.write_text(
            f"[libdefaults]\n default_realm = {realm}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n"
            " rdns = false\n dns_canonicalize_hostname = false\n clockskew = 2\n udp_preference_limit = 1\n"
            f"[realms]\n {realm} = {{\n  kdc = 127.0.0.1:{self.port}\n }}\n"
            f"[domain_realm]\n localhost = {realm}\n"
        )
        profile = self.directory / "kdc.conf"
        profile.write_text(
            f"[kdcdefaults]\n kdc_listen = 127.0.0.1:{self.port}\n kdc_tcp_listen = 127.0.0.1:{self.port}\n"
            f"[realms]\n {realm} = {{\n  database_name = {self.directory}/principals\n"
            f"  key_stash_file = {self.directory}/stash\n  acl_file = {self.directory}/acl\n"
            "  max_life = 1h\n  master_key_type = aes128-cts\n"
            "  supported_enctypes = aes128-cts:normal\n }\n"
        )
        self.environment = {"KRB5_CONFIG": str(self.config), "KRB5_KDC_PROFILE": str(profile)}
        self._run("kdb5_util", "create", "-s", "-r", realm, "-P", "secret")
        self.server = DatabaseServer(
            [
                "/usr/bin/env",
                *(f"{name}={value}" for name, value in self.environment.items()),
                _program("krb5kdc"), "-n", "-r", realm,
            ],
            None,
            self.directory / "log",
            self._answers,
        )  # fmt: skip
        self.server.start()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5):
                return True
        except OSError:
            return False

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [_program(program), *arguments],
            check=True,
            capture_output=True,
            env={**os.environ, **self.environment},
            cwd="/tmp",
        )

    def admin(self, *words: str) -> None:
        self._run("kadmin.local", "-r", self.realm, *words)

    def trust(self, other: Kdc) -> None:
        """Lets principals of the other realm request tickets of this one."""
        for kdc in (self, other):
            kdc.admin("addprinc", "-pw", "shared", f"krbtgt/{self.realm}@{other.realm}")

    def add(self, principal: str, *options: str) -> None:
        self.admin("addprinc", "-randkey", *options, principal)

    def keytab(self, principal: str, path: Path, *options: str) -> Path:
        """Writes the principal's current key with `-norandkey`, else a new one. The replacement is atomic."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        self.admin("ktadd", "-k", str(fresh), *options, principal)
        fresh.replace(path)
        return path

    def kinit(self, principal: str, keytab: Path, cache: Path, *options: str) -> None:
        fresh = cache.with_suffix(".new")
        self._run("kinit", "-k", "-t", str(keytab), "-c", f"FILE:{fresh}", *options, principal)
        fresh.replace(cache)

    def stop(self) -> None:
        self.server.kill()
