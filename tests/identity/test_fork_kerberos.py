"""Kerberos: every parameter and variable of the fork, in the fork's build and in this kine."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import grpc
import pytest

from tests.client import Client
from tests.databases.kerberos_postgres import Kerberized
from tests.databases.kerberos_postgres import missing as no_realm
from tests.databases.process import free_port
from tests.identity import fork_differential
from tests.identity.fork_differential import EXITS, NAMES, TRIES_ON, Case, Run

pytestmark = [
    pytest.mark.skipif(bool(no_realm()), reason=no_realm() or "-"),
    pytest.mark.skipif(bool(fork_differential.missing()), reason=fork_differential.missing() or "-"),
    pytest.mark.xdist_group("fork"),
    pytest.mark.engines,
]

KINE = "serves as kine@KINE.TEST"
DEFAULT = Path(f"/tmp/krb5cc_{os.getuid()}")
_numbers = count(1)


def at(query: str, *, user: str = "kine@", host: str = "localhost:{port}") -> str:
    return f"postgres://{user}{host}/{{database}}?{query}"


BY_KEYTAB = at("krb5_keytab={keytab}")
KEYTABS = [
    Case("path", BY_KEYTAB, KINE),
    Case("principal with its realm", at("krb5_keytab={keytab}", user="kine%40KINE.TEST@"), KINE),
    Case("another realm", at("krb5_keytab={keytab}", user="kine%40ELSEWHERE.TEST@"), TRIES_ON),
    Case("no key for the principal", at("krb5_keytab={keytab}", user="absent@"), TRIES_ON),
    Case("two at signs", at("krb5_keytab={keytab}", user="kine%40a%40b@"), EXITS),
    Case("no realm after the at sign", at("krb5_keytab={keytab}", user="kine%40@"), EXITS),
    Case("no user before the at sign", at("krb5_keytab={keytab}", user="%40KINE.TEST@"), EXITS),
    Case("no user", at("krb5_keytab={keytab}", user=""), TRIES_ON, EXITS, "no user in the endpoint"),
    Case(
        "no user but the variable's",
        at("krb5_keytab={keytab}", user=""),
        KINE,
        environment={"PGUSER": "kine"},
    ),
    Case("prefix", at("krb5_keytab=FILE:{keytab}"), EXITS, KINE, "`krb5_keytab=FILE:/k`"),
    Case("in memory", at("krb5_keytab=MEMORY:k"), EXITS),
    Case("variable", at(""), KINE, environment={"KRB5_KTNAME": "{keytab}"}),
    Case("variable with prefix", at(""), KINE, environment={"KRB5_KTNAME": "FILE:{keytab}"}),
    Case("empty variable", at(""), TRIES_ON, environment={"KRB5_KTNAME": ""}),
    Case("variable of a prefix", at(""), TRIES_ON, environment={"KRB5_KTNAME": "FILE:"}),
    Case("empty, variable", at("krb5_keytab="), KINE, environment={"KRB5_KTNAME": "{keytab}"}),
    Case("empty", at("krb5_keytab="), TRIES_ON),
    Case("before the variable", BY_KEYTAB, KINE, environment={"KRB5_KTNAME": "{absent}"}),
    Case("keytab and cache", at("krb5_keytab={keytab}&krb5_ccache={cache}"), EXITS),
    Case("absent", at("krb5_keytab={absent}"), EXITS),
    Case("absent, by the variable", at(""), EXITS, environment={"KRB5_KTNAME": "{absent}"}),
    Case("directory", at("krb5_keytab=/tmp"), TRIES_ON, EXITS, "`krb5_keytab` of a directory"),
    Case("empty file", at("krb5_keytab=/dev/null"), TRIES_ON),
    Case("twice, the first good", at("krb5_keytab={keytab}&krb5_keytab={absent}"), KINE),
    Case("twice, the last good", at("krb5_keytab={absent}&krb5_keytab={keytab}"), EXITS),
    Case("no default realm", BY_KEYTAB, EXITS, environment={"KRB5_CONFIG": "{realmless}"}),
    Case(
        "no default realm, principal with its own",
        at("krb5_keytab={keytab}", user="kine%40KINE.TEST@"),
        KINE,
        environment={"KRB5_CONFIG": "{realmless}"},
    ),
    Case("no krb5.conf", BY_KEYTAB, EXITS, environment={"KRB5_CONFIG": "{absent}"}),
    Case(
        "no krb5.conf, principal with its realm",
        at("krb5_keytab={keytab}", user="kine%40KINE.TEST@"),
        TRIES_ON,
        environment={"KRB5_CONFIG": "{absent}"},
    ),
    Case("no KDC", BY_KEYTAB, TRIES_ON, environment={"KRB5_CONFIG": "{kdcless}"}),
]
CACHES = [
    Case("path", at("krb5_ccache={cache}"), KINE),
    Case("prefix", at("krb5_ccache=FILE:{cache}"), KINE),
    Case("variable", at("krb5_ccache"), KINE, environment={"KRB5CCNAME": "FILE:{cache}"}),
    Case("empty, variable", at("krb5_ccache="), KINE, environment={"KRB5CCNAME": "FILE:{cache}"}),
    Case("prefix, variable", at("krb5_ccache=FILE:"), KINE, environment={"KRB5CCNAME": "FILE:{cache}"}),
    Case("before the variable", at("krb5_ccache={cache}"), KINE, environment={"KRB5CCNAME": "FILE:{absent}"}),
    Case(
        "before a keytab's variable", at("krb5_ccache={cache}"), KINE, environment={"KRB5_KTNAME": "{absent}"}
    ),
    Case(
        "variable without prefix",
        at("krb5_ccache"),
        TRIES_ON,
        KINE,
        "`KRB5CCNAME` without `FILE:`",
        environment={"KRB5CCNAME": "{cache}"},
    ),
    Case(
        "directory by the variable",
        at("krb5_ccache"),
        TRIES_ON,
        KINE,
        "`KRB5CCNAME` without `FILE:`",
        environment={"KRB5CCNAME": "DIR:{caches}"},
    ),
    Case("directory", at("krb5_ccache=DIR:{caches}"), TRIES_ON, KINE, "`krb5_ccache=DIR:/d`"),
    Case("in memory", at("krb5_ccache=MEMORY:c"), TRIES_ON),
    Case("in memory by the variable", at("krb5_ccache"), TRIES_ON, environment={"KRB5CCNAME": "MEMORY:c"}),
    Case("keyring", at("krb5_ccache=KEYRING:process:kine"), TRIES_ON),
    Case(
        "keyring by the variable",
        at("krb5_ccache"),
        TRIES_ON,
        environment={"KRB5CCNAME": "KEYRING:process:kine"},
    ),
    Case("variable alone", at(""), TRIES_ON, environment={"KRB5CCNAME": "FILE:{cache}"}),
    Case("absent", at("krb5_ccache={absent}"), TRIES_ON),
    Case("empty file", at("krb5_ccache=/dev/null"), TRIES_ON),
    Case("expired", at("krb5_ccache={expired}"), TRIES_ON),
    Case(
        "the database's ticket alone",
        at("krb5_ccache={ticket}"),
        TRIES_ON,
        KINE,
        "a cache with the database's ticket alone",
    ),
    Case("of another principal", at("krb5_ccache={other}"), TRIES_ON),
    Case("role with a realm", at("krb5_ccache={cache}", user="kine%40ELSEWHERE.TEST@"), KINE),
    Case("role with two at signs", at("krb5_ccache={cache}", user="kine%40a%40b@"), KINE),
    Case("no user", at("krb5_ccache={cache}", user=""), TRIES_ON, EXITS, "no user in the endpoint"),
    Case("twice, the first good", at("krb5_ccache={cache}&krb5_ccache={absent}"), KINE),
    Case("twice, the last good", at("krb5_ccache={absent}&krb5_ccache={cache}"), TRIES_ON),
    Case("no default realm", at("krb5_ccache={cache}"), KINE, environment={"KRB5_CONFIG": "{realmless}"}),
    Case(
        "a client's keytab",
        at("krb5_ccache={absent}"),
        TRIES_ON,
        KINE,
        "`KRB5_CLIENT_KTNAME`",
        environment={"KRB5_CLIENT_KTNAME": "{keytab}"},
    ),
]
SERVICES = [
    Case("named", f"{BY_KEYTAB}&krbsrvname=other", KINE),
    Case("named, absent", f"{BY_KEYTAB}&krbsrvname=absent", TRIES_ON),
    Case("empty", f"{BY_KEYTAB}&krbsrvname=", KINE),
    Case("twice, the first good", f"{BY_KEYTAB}&krbsrvname=postgres&krbsrvname=absent", KINE),
    Case("twice, the last good", f"{BY_KEYTAB}&krbsrvname=absent&krbsrvname=postgres", TRIES_ON),
    Case(
        "by the variable",
        BY_KEYTAB,
        KINE,
        TRIES_ON,
        "`PGKRBSRVNAME`",
        environment={"PGKRBSRVNAME": "absent"},
    ),
    Case(
        "empty, by the variable",
        f"{BY_KEYTAB}&krbsrvname=",
        KINE,
        TRIES_ON,
        "`krbsrvname=`",
        environment={"PGKRBSRVNAME": "absent"},
    ),
    Case(
        "before the variable",
        f"{BY_KEYTAB}&krbsrvname=postgres",
        KINE,
        environment={"PGKRBSRVNAME": "absent"},
    ),
    Case("of a host without a principal", at("krb5_keytab={keytab}", host="127.0.0.1:{port}"), TRIES_ON),
    Case("principal", at("krb5_keytab={keytab}&krbspn=postgres/localhost", host="127.0.0.1:{port}"), KINE),
    Case(
        "principal with its realm",
        at("krb5_keytab={keytab}&krbspn=postgres/localhost%40KINE.TEST", host="127.0.0.1:{port}"),
        TRIES_ON,
        KINE,
        "`krbspn` with a realm",
    ),
    Case("principal, absent", f"{BY_KEYTAB}&krbspn=postgres/absent", TRIES_ON),
    Case("principal, empty", f"{BY_KEYTAB}&krbspn=", KINE),
    Case("principal before the name", f"{BY_KEYTAB}&krbspn=postgres/localhost&krbsrvname=absent", KINE),
    Case("principal, by a cache", at("krb5_ccache={cache}&krbspn=postgres/absent"), TRIES_ON),
    Case("principal without Kerberos", at("krbspn=postgres/localhost"), TRIES_ON),
    Case(
        "host in upper case",
        at("krb5_keytab={keytab}", host="LOCALHOST:{port}"),
        TRIES_ON,
        KINE,
        "a host in upper case",
    ),
    Case("second host", at("krb5_keytab={keytab}", host="localhost:{closed},localhost:{port}"), KINE),
    Case(
        "encryption",
        f"{BY_KEYTAB}&gssencmode=require",
        TRIES_ON,
        f"{KINE}, encrypted",
        "`gssencmode`",
    ),
    Case(
        "password, and a keytab by the variable",
        at("", user="postgres:secret@"),
        "serves",
        environment={"KRB5_KTNAME": "{keytab}"},
    ),
    Case(
        "password, and no KDC",
        at("krb5_keytab={keytab}", user="postgres:secret@"),
        "serves",
        environment={"KRB5_CONFIG": "{kdcless}"},
    ),
    Case("password that is not asked for", at("krb5_keytab={keytab}", user="kine:wrong@"), KINE),
    Case("password that is wrong", at("krb5_keytab={keytab}", user="postgres:wrong@"), TRIES_ON),
    Case(
        "password by the variable",
        at("krb5_keytab={keytab}", user="postgres@"),
        "serves",
        environment={"PGPASSWORD": "secret"},
    ),
    Case(
        "identity provider, too",
        BY_KEYTAB,
        KINE,
        EXITS,
        "Kerberos and `--identity-provider`",
        flags=("--identity-provider=aws",),
        environment={
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "eu-central-1",
        },
    ),
]


@pytest.fixture(scope="module")
def realm() -> Iterator[Kerberized]:
    realm = Kerberized()
    for service in ("other/localhost", "canonical/db.test", "written/alias.test"):
        realm.kdc.add(service)
        realm.kdc.admin("ktadd", "-k", str(realm.server_keytab), "-norandkey", service)
    realm.kdc.add("plain")
    yield realm
    realm.stop()


@pytest.fixture(scope="module")
def files(realm: Kerberized) -> dict[str, str]:
    """All files that the cases name."""
    here = realm.kdc.directory
    keytab = realm.keytab
    realm.kdc.kinit("kine", keytab, here / "cache")
    realm.kdc.kinit("kine", keytab, here / "expired", "-l", "1s")
    realm.kdc.kinit("kine", keytab, here / "ticket", "-S", "postgres/localhost")
    realm.kdc.kinit("plain", realm.kdc.keytab("plain", here / "plain.keytab", "-norandkey"), here / "other")
    (here / "caches").mkdir(mode=0o700)
    environment = os.environ | realm.kdc.environment
    subprocess.run(
        ["kinit", "-k", "-t", keytab, "-c", f"DIR:{here / 'caches'}", "kine"], check=True, env=environment
    )
    config = realm.kdc.config.read_text()
    (here / "realmless.conf").write_text(config.replace("default_realm = KINE.TEST", ""))
    (here / "kdcless.conf").write_text(config.replace(f":{realm.kdc.port}", f":{free_port()}"))
    return {
        "port": str(realm.postgres.port),
        "closed": str(free_port()),
        "keytab": str(keytab),
        "absent": str(here / "absent"),
        "filled": str(here / "filled"),  # by libkrb5
        "realmless": str(here / "realmless.conf"),
        "kdcless": str(here / "kdcless.conf"),
        **{name: str(here / name) for name in ("cache", "expired", "ticket", "other", "caches")},
    }


def outcomes(
    realm: Kerberized, files: dict[str, str], case: Case, directory: Path, before: tuple[str, ...] = ()
) -> dict[str, str]:
    number = next(_numbers)
    values = {name: {**files, "database": f"d{number}x{at}"} for at, name in enumerate(NAMES)}

    def observe(name: str, run: Run) -> str:
        if run.end != fork_differential.SERVES:
            return run.end
        with realm.postgres.admin() as admin:
            found = admin.execute(
                "SELECT DISTINCT principal, encrypted FROM pg_stat_gssapi JOIN pg_stat_activity USING (pid)"
                " WHERE datname = %s AND gss_authenticated",
                [values[name]["database"]],
            ).fetchall()
        return ", ".join(
            [
                "".join([run.end, *(f" as {principal}" for principal, _ in found)]),
                *(["encrypted"] if any(encrypted for _, encrypted in found) else []),
            ]
        )

    environment = {"KRB5_CONFIG": str(realm.kdc.config), **case.environment}
    return fork_differential.compare(
        replace(case, environment=environment), directory, values, observe, before=before
    )


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{kind}: {case.name}")
        for kind, cases in (("keytab", KEYTABS), ("cache", CACHES), ("service", SERVICES))
        for case in cases
    ],
)
def test_outcome_is_the_forks_or_a_listed_one(
    realm: Kerberized, files: dict[str, str], tmp_path: Path, case: Case
) -> None:
    assert outcomes(realm, files, case, tmp_path) == case.expected()
    assert fork_differential.listed(case)


def test_connections_are_made_without_a_kdc(realm: Kerberized, files: dict[str, str], tmp_path: Path) -> None:
    together = threading.Barrier(len(NAMES), timeout=120)
    values = {name: {**files, "database": f"without{at}"} for at, name in enumerate(NAMES)}

    def observe(name: str, run: Run) -> str:
        if together.wait() == 0:
            realm.kdc.server.kill()
            with realm.postgres.admin() as admin:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_gssapi WHERE gss_authenticated")
        together.wait()
        failed = 0
        with Client(run.address) as client:
            while failed < 5:  # the first may still get the connection that was cut
                try:
                    client.put(b"/fork", b"1")
                except grpc.RpcError:
                    failed += 1
                    time.sleep(0.5)
                else:
                    return fork_differential.SERVES
        return "fails"

    case = Case("tickets", BY_KEYTAB, "fails", fork_differential.SERVES, "tickets")
    given = replace(case, environment={"KRB5_CONFIG": str(realm.kdc.config)})
    try:
        assert fork_differential.compare(given, tmp_path, values, observe) == case.expected()
    finally:
        realm.kdc.server.start()
    assert fork_differential.listed(case)


class Names(socketserver.BaseRequestHandler):
    """A DNS server: alias.test is another name of db.test, on 127.0.0.1, whose reverse name is localhost."""

    def handle(self) -> None:
        question, answering = self.request
        end = question.index(b"\0", 12) + 5
        name, kind = question[12 : end - 4], question[end - 3]
        answers = []
        if name.lower() == _name("alias.test") and kind in (_A, _AAAA, _CNAME):
            answers.append(_record(name, _CNAME, _name("db.test")))
            name = _name("db.test")
        if name.lower() == _name("db.test") and kind == _A:
            answers.append(_record(name, _A, bytes([127, 0, 0, 1])))
        if name == _name("1.0.0.127.in-addr.arpa") and kind == _PTR:
            answers.append(_record(name, _PTR, _name("localhost")))
        head = question[:2] + struct.pack("!HHHHH", 0x8580, 1, len(answers), 0, 0)
        answering.sendto(head + question[12:end] + b"".join(answers), self.client_address)


_A, _CNAME, _PTR, _AAAA = 1, 5, 12, 28


def _name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def _record(name: bytes, kind: int, content: bytes) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, 60, len(content)) + content


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A command prefix under which that DNS server is used, and no hosts file has a name."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a name server of their own needs root, and unshare")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.10\noptions timeout:5 attempts:3\n")
    (tmp_path / "hosts").write_text("")
    mounts = " && ".join(f"mount --bind {tmp_path / name} /etc/{name}" for name in ("resolv.conf", "hosts"))
    before = ("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    with alone("names"):
        try:
            server = socketserver.ThreadingUDPServer(("127.0.0.10", 53), Names)
        except OSError as error:
            pytest.skip(f"no name server can be put there: {error}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield before
        server.shutdown()
        server.server_close()


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Runs one test at a time across all processes: there is only one such place on the machine."""
    with Path(f"/tmp/kine-tests-fork-{what}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


CANONICAL = "`dns_canonicalize_hostname`, `rdns`"


@pytest.mark.parametrize(
    ("canonical", "reverse", "service", "go_kine", "ours"),
    [
        ("true", "false", "canonical", KINE, ""),
        ("true", "true", "canonical", KINE, TRIES_ON),
        ("true", "true", "postgres", TRIES_ON, KINE),  # postgres/localhost
        ("false", "false", "canonical", TRIES_ON, ""),
        ("false", "false", "written", KINE, ""),
    ],
)
def test_host_is_called_as_the_fork_calls_it(
    realm: Kerberized,
    files: dict[str, str],
    tmp_path: Path,
    named: tuple[str, ...],
    canonical: str,
    reverse: str,
    service: str,
    go_kine: str,
    ours: str,
) -> None:
    config = realm.kdc.config.read_text()
    config = config.replace(" rdns = false", f" rdns = {reverse}")
    config = config.replace("hostname = false", f"hostname = {canonical}")
    config = config.replace("[domain_realm]\n", "[domain_realm]\n .test = KINE.TEST\n")
    (tmp_path / "krb5.conf").write_text(config)
    endpoint = at(f"krb5_keytab={{keytab}}&krbsrvname={service}", host="alias.test:{port}")
    environment = {"KRB5_CONFIG": str(tmp_path / "krb5.conf")}
    case = Case("names", endpoint, go_kine, ours, CANONICAL, environment=environment)
    assert outcomes(realm, files, case, tmp_path, named) == case.expected()
    assert fork_differential.listed(case)


@pytest.mark.parametrize("told", [None, "", "FILE:"])
def test_cache_of_the_user_is_the_default(
    realm: Kerberized, files: dict[str, str], tmp_path: Path, told: str | None
) -> None:
    case = Case("default", at("krb5_ccache"), KINE, environment={} if told is None else {"KRB5CCNAME": told})
    with alone("cache"):
        if DEFAULT.exists():
            pytest.skip(f"{DEFAULT} is somebody's")
        shutil.copy(files["cache"], DEFAULT)
        try:
            assert outcomes(realm, files, case, tmp_path) == case.expected()
        finally:
            DEFAULT.unlink()


def test_keytab_that_may_not_be_read(realm: Kerberized, files: dict[str, str], tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs another user's file, and setpriv")
    keytab = shutil.copy(files["keytab"], tmp_path / "keytab")
    os.chown(keytab, pwd.getpwnam("nobody").pw_uid, -1)
    os.chmod(keytab, 0o600)
    without = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    case = Case("unreadable", BY_KEYTAB, TRIES_ON, EXITS, "`krb5_keytab` of a directory")
    assert outcomes(realm, {**files, "keytab": str(keytab)}, case, tmp_path, without) == case.expected()
    assert fork_differential.listed(case)
