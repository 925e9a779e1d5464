"""Kerberos against a real KDC and PostgreSQL: the endpoint's rules, and the lifetime of tickets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import grpc
import pytest

from kine import drivers
from kine.drivers.base import Options
from kine.drivers.postgres import dsn
from kine.drivers.postgres.dsn import parse
from tests.client import Client
from tests.databases.kdc import Kdc
from tests.databases.kerberos_postgres import Kerberized, missing
from tests.databases.process import free_port
from tests.identity.gss_encrypting_proxy import GssGate
from tests.servers.process import Instance

ENDPOINT = "postgres://kine%40KINE.TEST@db:5432/kine"
RECOVERY = 60.0  # seconds

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.xdist_group("kerberos"),
]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KRB5_KTNAME", "KRB5CCNAME", "PGKRBSRVNAME"):
        monkeypatch.delenv(name, raising=False)


# ---- the endpoint's rules


def test_own_parameters_are_stripped_and_libpqs_kept() -> None:
    dsn = parse(f"{ENDPOINT}?krb5_keytab=/k&krbsrvname=pg", Options())
    assert dsn.kerberos is not None
    assert (dsn.kerberos.principal, dsn.kerberos.keytab, dsn.kerberos.service) == (
        "kine@KINE.TEST",
        "/k",
        "pg",
    )
    assert (dsn.connection["user"], dsn.connection["krbsrvname"]) == ("kine", "pg")
    assert "krb5" not in str(dsn.connection)


def test_both_sources_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        parse(f"{ENDPOINT}?krb5_keytab=/k&krb5_ccache", Options())


def test_kerberos_beside_another_provider_is_refused() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        parse(f"{ENDPOINT}?krb5_keytab=/k", Options(identity_provider="aws"))


@pytest.mark.parametrize("told", ["/env", "FILE:/env"])
def test_ktname_names_a_keytab(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("KRB5_KTNAME", told)
    found = parse(ENDPOINT, Options()).kerberos
    assert found is not None
    assert found.keytab == "/env"


@pytest.mark.parametrize("told", ["", "FILE:"])
def test_empty_ktname_warns_and_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, told: str
) -> None:
    monkeypatch.setenv("KRB5_KTNAME", told)
    assert parse(ENDPOINT, Options()).kerberos is None
    assert "KRB5_KTNAME" in caplog.text


def test_ccname_alone_turns_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", "FILE:/c")
    dsn = parse(ENDPOINT, Options())
    assert dsn.kerberos is None
    assert (dsn.connection["gssencmode"], dsn.connection["require_auth"]) == ("disable", "!gss")


def test_libpq_without_gssapi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trial:
        """Fails as such a libpq does; none is available here."""

        @staticmethod
        def connect_start(conninfo: bytes) -> Trial:
            return Trial()

        def get_error_message(self) -> str:
            return 'gssencmode value "require" invalid when GSSAPI support is not compiled in'

        def finish(self) -> None:
            """Does nothing."""

    monkeypatch.setattr(dsn.pq, "PGconn", Trial)
    with pytest.raises(ValueError, match=r"install psycopg\[binary\]"):
        drivers.connect(f"{ENDPOINT}?krb5_keytab=/k", Options())


@pytest.mark.parametrize(
    ("endpoint", "fix"),
    [
        ("postgres://db/kine?krb5_keytab=/k", "principal"),
        ("postgres://kine%40@db/kine?krb5_keytab=/k", "principal"),
        ("postgres://a%40b%40c@db/kine?krb5_keytab=/k", "principal"),
        ("postgres://kine@/kine?krb5_keytab=/k", "host"),
        ("postgres://kine@/kine?krb5_keytab=/k&host=db,/run/postgresql", "host"),
        ("postgres://kine@/kine?krb5_keytab=/k&host=/run/postgresql,db", "host"),
        ("postgres://kine@/kine?krb5_keytab=/k&host=db,", "host"),
    ],
)
def test_unusable_endpoint_says_what_to_write(endpoint: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        drivers.connect(endpoint, Options())


# ---- real connections


def put(client: Client, value: bytes) -> None:
    deadline = time.monotonic() + RECOVERY
    while True:
        try:
            client.put(b"/krb", value)
        except grpc.RpcError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def put_some(client: Client) -> None:
    """Writes several times, as one of the writes needs a new connection."""
    for _ in range(3):
        client.put(b"/krb", b"4")


def cut(realm: Kerberized) -> None:
    with realm.postgres.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> 'postgres'")


def test_keytab_opens_an_encrypted_connection_and_leaves_nothing_behind(
    realm: Kerberized, serve: Callable[[str], Instance], tmp_path: Path
) -> None:
    instance = serve(realm.by_keytab(realm.postgres.new_database()) + "&gssencmode=require")
    with Client(instance.address) as client:
        client.put(b"/krb", b"1")
    [directory] = tmp_path.glob("kine-krb5-*")
    assert (directory.stat().st_mode & 0o777, (directory / "tickets").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    with realm.postgres.admin() as admin:
        found = admin.execute("SELECT principal, encrypted FROM pg_stat_gssapi WHERE gss_authenticated")
        assert set(found.fetchall()) == {("kine@KINE.TEST", True)}
    assert instance.stop() == 0
    assert not directory.exists()


_ANSWERS = """
import asyncio, sys
from kine.drivers.postgres.gss_connection import GssConnection

async def read():
    connection = await GssConnection.connect(sys.argv[1], autocommit=True)
    statement = "SELECT g, repeat('x', %s) FROM generate_series(1, 200) g"
    for size in range(100, 4500, 37):
        async with asyncio.timeout(60):
            cursor = connection.cursor(binary=True)
            await cursor.execute(statement, (size,))
            await cursor.fetchall()

asyncio.run(read())
"""


@pytest.mark.skipif(not find_library("pq"), reason="no libpq of the system's")
def test_answers_in_the_largest_encrypted_packets_are_read_to_their_end(
    realm: Kerberized, tmp_path: Path
) -> None:
    realm.trust_gated()
    cache = tmp_path / "cache"
    realm.kdc.kinit("gated", realm.gated_keytab, cache)
    environment = os.environ | {
        "KRB5_CONFIG": str(realm.kdc.config),
        "KRB5CCNAME": f"FILE:{cache}",
        "PSYCOPG_IMPL": "python",  # on the system's libpq, which may keep what it decrypted
    }
    with GssGate(realm.postgres.port, realm.server_keytab) as gate:
        where = f"host=localhost port={gate.port} user=gated dbname=postgres gssencmode=require"
        command = [sys.executable, "-c", _ANSWERS, where]
        ended = subprocess.run(command, env=environment, timeout=170, check=False, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_keytab_opens_a_connection_under_tls(
    realm: Kerberized, serve: Callable[[str], Instance], tmp_path: Path
) -> None:
    authority = realm.use_tls()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    realm.kdc.add("tls")
    keytab = realm.kdc.keytab("tls", realm.kdc.directory / "tls.keytab", "-norandkey")
    instance = serve(
        realm.endpoint(realm.postgres.new_database(), f"krb5_keytab={keytab}", user="tls")
        + f"&sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
    )
    with Client(instance.address) as client:
        put(client, b"1")
        with realm.postgres.admin() as admin:
            found = admin.execute(
                "SELECT principal, ssl FROM pg_stat_gssapi JOIN pg_stat_ssl USING (pid) WHERE principal"
                " LIKE 'tls%'"
            )
            assert set(found.fetchall()) == {("tls@KINE.TEST", True)}


@pytest.mark.parametrize("by", ["endpoint", "variable"])
def test_password_needs_no_ticket_where_the_server_asks_for_one(
    realm: Kerberized,
    serve: Callable[..., Instance],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    by: str,
) -> None:
    """As in Go kine, where the server chooses the method; here no KDC can be reached."""
    config = tmp_path / "krb5.conf"
    config.write_text(realm.kdc.config.read_text().replace(f":{realm.kdc.port}", f":{free_port()}"))
    monkeypatch.setenv("KRB5_CONFIG", str(config))
    monkeypatch.setenv("KRB5_KTNAME", str(realm.keytab))
    user = "postgres:secret"
    if by == "variable":
        user = "postgres"
        monkeypatch.setenv("PGPASSWORD", "secret")
    endpoint = realm.endpoint(realm.postgres.new_database(), "", user=user)
    instance = serve(endpoint, f"--metrics-bind-address=127.0.0.1:{(metrics := free_port())}")
    with Client(instance.address) as client:
        put(client, b"1")
        cut(realm)
        put(client, b"2")
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as page:
        assert "kine_identity_expiry_seconds +Inf\n" in page.read().decode()  # no alert
    assert "ticket" not in instance.log.read_text()


def test_ticket_is_shown_to_a_server_that_asks_for_it_whatever_the_password(
    realm: Kerberized, serve: Callable[..., Instance]
) -> None:
    database = realm.postgres.new_database()
    endpoint = realm.endpoint(database, f"krb5_keytab={realm.keytab}", user="kine:wrong")
    with Client(serve(endpoint).address) as client:
        put(client, b"1")
        with realm.postgres.admin() as admin:
            found = admin.execute(
                "SELECT principal FROM pg_stat_gssapi JOIN pg_stat_activity USING (pid) WHERE datname = %s",
                [database],
            )
            assert set(found.fetchall()) == {("kine@KINE.TEST",)}


def test_cache_named_by_the_variable_serves_in_cache_mode(
    realm: Kerberized, serve: Callable[[str], Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    realm.kdc.kinit("kine", realm.keytab, cache)
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{cache}")
    instance = serve(realm.endpoint(realm.postgres.new_database(), "krb5_ccache"))
    [tickets] = tmp_path.glob("kine-krb5-*/tickets")
    first = tickets.read_bytes()
    with Client(instance.address) as client:
        put(client, b"1")
        realm.kdc.kinit("kine", realm.keytab, cache)  # as a sidecar refreshes it
        cut(realm)
        put(client, b"2")
    assert tickets.read_bytes() != first


def test_cache_that_has_expired_is_told(
    realm: Kerberized, serve: Callable[..., Instance], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    realm.kdc.kinit("kine", realm.keytab, cache, "-l", "1s")
    time.sleep(2)
    endpoint = realm.endpoint(realm.postgres.new_database(), f"krb5_ccache={cache}")
    reason = "the ticket has expired"
    assert serve(endpoint, until=lambda line: line if reason in line else None).running  # it keeps trying


def test_principal_of_a_trusted_realm_is_let_in(
    realm: Kerberized, serve: Callable[[str], Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Kdc("PARTNER.TEST")
    try:
        realm.kdc.trust(other)
        other.add("partner")
        keytab = other.keytab("partner", tmp_path / "partner.keytab")
        both = tmp_path / "krb5.conf"
        place = "[realms]\n"
        both.write_text(
            realm.kdc.config.read_text().replace(
                place, f"{place} PARTNER.TEST = {{\n  kdc = 127.0.0.1:{other.port}\n }}\n"
            )
        )
        monkeypatch.setenv("KRB5_CONFIG", str(both))
        user = "partner%40PARTNER.TEST"
        endpoint = realm.endpoint(realm.postgres.new_database(), f"krb5_keytab={keytab}", user=user)
        with Client(serve(endpoint).address) as client:
            put(client, b"1")
            with realm.postgres.admin() as admin:
                found = admin.execute("SELECT principal FROM pg_stat_gssapi WHERE principal LIKE 'partner%'")
                assert set(found.fetchall()) == {("partner@PARTNER.TEST",)}
    finally:
        other.stop()


@pytest.mark.engines
def test_short_tickets_are_renewed_and_a_stopped_kdc_is_survived(
    realm: Kerberized, serve: Callable[[str], Instance]
) -> None:
    realm.kdc.add("short", "-maxlife", "4 seconds")
    keytab = realm.kdc.keytab("short", realm.kdc.directory / "short.keytab", "-norandkey")
    with realm.postgres.admin() as admin:
        admin.execute("CREATE ROLE short LOGIN CREATEDB")
        rules = realm.postgres.directory / "data" / "pg_hba.conf"
        rules.write_text(rules.read_text() + "host all short 127.0.0.1/32 gss include_realm=0\n")
        admin.execute("SELECT pg_reload_conf()")
    endpoint = realm.endpoint(
        realm.postgres.new_database(), f"krb5_keytab={keytab}", user="short%40KINE.TEST"
    )
    instance = serve(endpoint)
    with Client(instance.address) as client:
        put(client, b"1")
        time.sleep(5)  # longer than a ticket lives
        cut(realm)
        put(client, b"2")
        realm.kdc.server.kill()
        try:
            time.sleep(5)
            client.put(b"/krb", b"3")  # on an existing connection
            cut(realm)
            with pytest.raises(grpc.RpcError):
                put_some(client)
        finally:
            realm.kdc.server.start()
        put(client, b"5")
    assert "Cannot contact any KDC" in instance.log.read_text()


@pytest.mark.slow
def test_rotated_keys_of_client_and_server_are_taken_up(
    realm: Kerberized, serve: Callable[[str], Instance]
) -> None:
    keytab = realm.kdc.keytab("kine", realm.kdc.directory / "rotated.keytab", "-norandkey")
    instance = serve(realm.by_keytab(realm.postgres.new_database(), keytab))
    with Client(instance.address) as client:
        put(client, b"1")
        realm.kdc.keytab("kine", keytab)  # a new key
        cut(realm)
        put(client, b"2")
        realm.renew_server_key()
        cut(realm)
        put(client, b"3")
    realm.kdc.keytab("kine", realm.keytab, "-norandkey")


@pytest.mark.parametrize(
    ("user", "reason"),
    [("absent", "has no key for the principal"), ("kine%40ELSEWHERE.TEST", "realm")],
)
def test_principal_or_realm_that_is_not_there_is_named(
    realm: Kerberized,
    serve: Callable[..., Instance],
    user: str,
    reason: str,
) -> None:
    endpoint = realm.endpoint(realm.postgres.new_database(), f"krb5_keytab={realm.keytab}", user=user)
    assert serve(endpoint, until=lambda line: line if reason in line else None).running  # it keeps trying
