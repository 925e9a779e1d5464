"""Kerberos when the KDC does not respond, when files are missing, and with many connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kine import drivers
from kine.drivers.base import Options
from kine.drivers.postgres.connection import connect
from kine.drivers.postgres.dsn import parse
from kine.drivers.sql.failures import StatementError
from kine.identity import ccache_format, kerberos
from tests.client import Client
from tests.databases.kerberos_postgres import Kerberized, missing
from tests.databases.process import free_port
from tests.identity.test_kerberos import ENDPOINT, put
from tests.servers.kine import ROOT, serving
from tests.servers.process import Instance, start

SERVED = 10.0  # seconds in which a call must be answered; libkrb5 waits for 30 and more
NOBODY = 65534

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.xdist_group("kerberos"),
]


# ---- a KDC that is silent


@pytest.fixture
def silent_kdc(realm: Kerberized) -> Iterator[Callable[[], None]]:
    yield realm.kdc.server.suspend
    realm.kdc.server.resume()


@pytest.mark.engines
def test_silent_kdc_delays_no_call_while_a_ticket_of_somebody_elses_lasts(
    realm: Kerberized, serve: Callable[..., Instance], silent_kdc: Callable[[], None], tmp_path: Path
) -> None:
    """In the last 30 seconds of its lifetime libkrb5 would renew it, wherever keys may be."""
    cache = tmp_path / "cache"
    realm.kdc.kinit("kine", realm.keytab, cache)
    instance = serve(
        realm.endpoint(realm.postgres.new_database(), f"krb5_ccache={cache}"),
        "--datastore-connection-max-lifetime=1s",
    )
    [tickets] = tmp_path.glob("kine-krb5-*/tickets")
    first = tickets.read_bytes()
    realm.kdc.kinit("kine", realm.keytab, cache, "-l", "30s")
    end = time.monotonic() + 22
    with Client(instance.address) as client:
        while tickets.read_bytes() == first:
            put(client, b"0")  # new connections find that the cache has changed
        silent_kdc()
        _call_until(instance, end)


@pytest.mark.engines
def test_silent_kdc_delays_no_call_while_a_ticket_of_ours_lasts(
    realm: Kerberized, serve: Callable[..., Instance], silent_kdc: Callable[[], None]
) -> None:
    """From half its lifetime on libkrb5 would renew a ticket that was obtained with a keytab's key."""
    realm.kdc.add("brief", "-maxlife", "40 seconds")
    keytab = realm.kdc.keytab("brief", realm.kdc.directory / "brief.keytab", "-norandkey")
    with realm.postgres.admin() as admin:
        admin.execute("CREATE ROLE brief LOGIN CREATEDB")
        rules = realm.postgres.directory / "data" / "pg_hba.conf"
        rules.write_text(rules.read_text() + "host all brief 127.0.0.1/32 gss include_realm=0\n")
        admin.execute("SELECT pg_reload_conf()")
    endpoint = realm.endpoint(realm.postgres.new_database(), f"krb5_keytab={keytab}", user="brief")
    instance = serve(endpoint, "--datastore-connection-max-lifetime=1s")
    with Client(instance.address) as client:
        put(client, b"0")
    silent_kdc()
    _call_until(instance, time.monotonic() + 12)  # at least half its lifetime is left


def _call_until(instance: Instance, end: float) -> None:
    calls = 0
    with Client(instance.address, timeout=SERVED) as client:
        while time.monotonic() < end:
            client.put(b"/krb", b"%d" % calls)
            assert client.range(b"/krb").kvs[0].value == b"%d" % calls
            calls += 1


async def test_silent_kdc_and_name_server_are_asked_by_no_call_on_the_event_loops_thread(
    realm: Kerberized, silent_kdc: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []  # the call, and whether it was on the loop's thread

    def noted(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def called(*words: Any, **named: Any) -> Any:
            asked.append((what, threading.current_thread() is threading.main_thread()))
            return work(*words, **named)

        return called

    for what, owner, name in (
        ("ticket", kerberos.Kerberos, "_acquire"),
        ("handshake", psycopg.generators, "connect"),
        ("name", socket, "getaddrinfo"),
    ):
        monkeypatch.setattr(owner, name, noted(what, getattr(owner, name)))
    monkeypatch.setattr(kerberos, "_LOOK", 0.2)
    monkeypatch.setattr(kerberos._Tickets, "due", lambda tickets, now: True)  # renewed all the time
    monkeypatch.setenv("KRB5_CONFIG", str(realm.kdc.config))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    endpoint = f"{realm.by_keytab(realm.postgres.new_database())}&gssencmode=prefer"
    log = drivers.connect(endpoint, Options(connection_max_lifetime=0.05))
    await log.open()
    loop = asyncio.get_running_loop()

    async def longest() -> float:
        """The longest of the calls of two seconds, each followed by its pause."""
        found, last, end = 0.0, loop.time(), loop.time() + 2
        while loop.time() < end:
            await log.newest()
            await asyncio.sleep(0.01)
            found, last = max(found, loop.time() - last), loop.time()
        return found

    before = await longest()
    silent_kdc()
    asked.clear()
    after = await longest()
    realm.kdc.server.resume()
    await log.close()
    counts = Counter(what for what, _ in asked)
    print(f"{counts}, the longest call took {before:.3f} s, and {after:.3f} s without the KDC")  # noqa: T201
    assert set(counts) == {"ticket", "handshake", "name"}
    assert not [what for what, on_loop in asked if on_loop]
    assert after < SERVED  # libkrb5 waits for 30 seconds and more


@pytest.fixture
def slow_names(tmp_path: Path) -> Iterator[list[str]]:
    """A command prefix under which no DNS server responds, and no file has an address' name."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root, and unshare")
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        silent.bind(("127.0.0.9", 53))
    except OSError as error:
        pytest.skip(f"no name server can be put there: {error}")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.9\noptions timeout:1 attempts:1\n")
    (tmp_path / "hosts").write_text("")
    mounts = " && ".join(f"mount --bind {tmp_path / name} /etc/{name}" for name in ("resolv.conf", "hosts"))
    within = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield within
    questions = 0
    silent.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while silent.recv(512):
            questions += 1
    silent.close()
    assert questions


@pytest.mark.engines
def test_silent_name_server_delays_the_connection_that_asks_it_only(
    realm: Kerberized, slow_names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = realm.kdc.config.read_text()
    config = tmp_path / "krb5.conf"
    config.write_text(
        text.replace("rdns = false", "rdns = true").replace("hostname = false", "hostname = true")
    )
    endpoint = realm.by_keytab(realm.postgres.new_database()).replace("@localhost:", "@127.0.0.1:")
    command = [
        *slow_names, sys.executable, "-m", "kine", "--listen-address=127.0.0.1:0", "--metrics-bind-address=0",
        "--log-format=json", f"--endpoint={endpoint}&krbspn=postgres/localhost",
        "--datastore-connection-max-lifetime=3s",
    ]  # fmt: skip
    server = start(command, tmp_path, serving, {"KRB5_CONFIG": str(config), "PYTHONPATH": str(ROOT)})
    took = []
    end = time.monotonic() + 8
    with Client(server.address) as client:
        while time.monotonic() < end:
            begun = time.monotonic()
            put(client, b"0")
            took.append(time.monotonic() - begun)
    server.kill()
    print(f"{len(took)} puts, the longest took {max(took):.2f} s")  # noqa: T201
    assert sorted(took)[len(took) // 2] < 1.0  # nearly all are on connections that are open


def test_silent_kdc_at_start_is_reported_in_time_and_waited_for(
    realm: Kerberized, serve: Callable[..., Instance], silent_kdc: Callable[[], None]
) -> None:
    silent_kdc()
    reason = "no KDC has answered within 2 s"
    endpoint = realm.by_keytab(realm.postgres.new_database())
    instance = serve(endpoint, "--identity-timeout=2s", until=lambda line: line if reason in line else None)
    realm.kdc.server.resume()
    assert _serving(instance)


def _serving(instance: Instance) -> bool:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and instance.running:
        if '"serving"' in instance.log.read_text():
            return True
        time.sleep(0.1)
    return False


# ---- the database's principal by name


@pytest.mark.parametrize("spn", ["postgres/localhost", "postgres/localhost%40KINE.TEST"])
@pytest.mark.parametrize("encryption", ["", "&gssencmode=require"])
def test_krbspn_is_the_principal_whatever_the_host_is_called(
    realm: Kerberized, serve: Callable[..., Instance], spn: str, encryption: str
) -> None:
    endpoint = realm.by_keytab(realm.postgres.new_database()).replace("@localhost:", "@127.0.0.1:")
    instance = serve(f"{endpoint}&krbspn={spn}{encryption}")
    with Client(instance.address) as client:
        put(client, b"1")
    with realm.postgres.admin() as admin:
        found = admin.execute("SELECT principal FROM pg_stat_gssapi WHERE gss_authenticated")
        assert ("kine@KINE.TEST",) in found.fetchall()


def test_krbspn_is_found_where_no_realm_is_known_for_the_host(
    realm: Kerberized, serve: Callable[..., Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmapped = tmp_path / "krb5.conf"
    unmapped.write_text(realm.kdc.config.read_text().partition("[domain_realm]")[0])
    monkeypatch.setenv("KRB5_CONFIG", str(unmapped))
    endpoint = realm.by_keytab(realm.postgres.new_database()).replace("@localhost:", "@127.0.0.1:")
    with Client(serve(f"{endpoint}&krbspn=postgres/localhost").address) as client:
        put(client, b"1")


def test_the_second_host_serves_where_the_first_is_away(
    realm: Kerberized, serve: Callable[..., Instance]
) -> None:
    endpoint = realm.by_keytab(realm.postgres.new_database()).replace(
        "@localhost:", f"@localhost:{free_port()},127.0.0.1:"
    )
    with Client(serve(f"{endpoint}&krbspn=postgres/localhost").address) as client:
        put(client, b"1")


def test_krbspn_without_kerberos_has_no_effect_as_in_go_kine() -> None:
    dsn = parse(f"{ENDPOINT}?krbspn=postgres/db", Options())
    assert dsn.kerberos is None
    assert "krbspn" not in str(dsn.connection)


@pytest.mark.parametrize(
    ("query", "keytab", "cache"),
    [
        ("krb5_keytab=/first&krb5_keytab=/last", "/first", ""),
        ("krb5_keytab=FILE:/k", "/k", ""),
        ("krb5_ccache=FILE:/c", "", "FILE:/c"),
        ("krb5_ccache=/c", "", "/c"),
        ("krb5_ccache", "", ""),
        ("krb5_ccache=FILE:", "", ""),
    ],
)
def test_parameters_are_read_as_go_kine_reads_them(query: str, keytab: str, cache: str) -> None:
    found = parse(f"{ENDPOINT}?{query}", Options()).kerberos
    assert found is not None
    assert (found.keytab, found.cache) == (keytab, cache)


@pytest.mark.parametrize("told", ["krbsrvname=", "krbsrvname=postgres", "krbsrvname=&krbspn="])
def test_service_without_a_name_is_the_default(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGKRBSRVNAME", "")
    dsn = parse(f"{ENDPOINT}?krb5_ccache&{told}", Options())
    assert dsn.kerberos is not None
    assert (dsn.kerberos.service, dsn.kerberos.spn) == ("postgres", "")
    assert dsn.connection["krbsrvname"] == "postgres"  # libpq would look for @HOST


@pytest.mark.parametrize("variable", ["/c", "FILE:/c", "FILE:", ""])
def test_variable_locates_the_cache_as_in_go_kine(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", variable)
    found = kerberos._default_cache(pytest.importorskip("gssapi"))
    assert found == (variable if "/c" in variable else f"FILE:/tmp/krb5cc_{os.getuid()}")


@pytest.mark.parametrize(
    ("endpoint", "fix"),
    [
        (f"{ENDPOINT}?krb5_keytab=FILE:", "krb5_keytab names no file"),
        (f"{ENDPOINT}?krb5_keytab=MEMORY:keys", "cannot be read"),
        (f"{ENDPOINT}?krb5_keytab=/tmp", "cannot be read"),
    ],
)
def test_keytab_that_is_no_file_ends_the_start_as_in_go_kine(endpoint: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        drivers.connect(endpoint, Options())


def test_principal_of_no_realm_ends_the_start_as_in_go_kine(
    realm: Kerberized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "krb5.conf"
    config.write_text(realm.kdc.config.read_text().replace("default_realm", "other"))
    monkeypatch.setenv("KRB5_CONFIG", str(config))
    advice = "no realm for kine: .*write the user as user%40REALM, or set default_realm"
    for user, reason in (("kine", advice), ("kine%40KINE.TEST", "")):
        endpoint = f"postgres://{user}@db/kine?krb5_keytab={realm.keytab}"
        with pytest.raises(ValueError, match=reason) if reason else contextlib.nullcontext():
            drivers.connect(endpoint, Options())


def test_role_of_a_cache_ends_at_the_first_at_sign_as_in_go_kine() -> None:
    assert parse("postgres://a%40b%40c@db/kine?krb5_ccache", Options()).connection["user"] == "a"


# ---- what is missing at start


@pytest.mark.parametrize("kind", ["absent", "unreadable"])
def test_keytab_that_cannot_be_read_ends_the_start(tmp_path: Path, kind: str) -> None:
    keytab = tmp_path / "keytab"
    if kind == "unreadable":
        if os.geteuid() != 0:
            pytest.skip("needs another user's file")
        keytab.write_bytes(b"\x05\x02")
        keytab.chmod(0o600)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ValueError, match=f"of user id {os.geteuid()}"):
            drivers.connect(f"{ENDPOINT}?krb5_keytab={keytab}", Options())
    finally:
        if kind == "unreadable":
            os.seteuid(0)


def test_missing_gssapi_says_what_to_install(monkeypatch: pytest.MonkeyPatch, realm: Kerberized) -> None:
    monkeypatch.setitem(sys.modules, "gssapi", None)
    with pytest.raises(ValueError, match="libkrb5"):
        drivers.connect(f"{ENDPOINT}?krb5_keytab={realm.keytab}", Options())


# ---- the cache's file


def test_cache_is_read_whole_and_loses_its_settings(realm: Kerberized, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    realm.kdc.kinit("kine", realm.keytab, cache)
    content = cache.read_bytes()
    assert ccache_format.parse(content).packed() == content
    ticket = ccache_format.principal("krbtgt/KINE.TEST@KINE.TEST")
    alias = ccache_format.principal("other/a\\/b@REALM")
    prepared = ccache_format.parse(ccache_format.prepared(content, {alias: ticket}))
    assert [(entry.server.realm, entry.server.parts) for entry in prepared.entries] == [
        (b"KINE.TEST", (b"krbtgt", b"KINE.TEST")),
        (b"REALM", (b"other", b"a/b")),
    ]


@pytest.mark.parametrize("size", range(0, 400, 13))
def test_cache_that_was_cut_off_is_refused(realm: Kerberized, tmp_path: Path, size: int) -> None:
    cache = tmp_path / "cache"
    realm.kdc.kinit("kine", realm.keytab, cache)
    whole = {len(ccache_format.parse(cache.read_bytes()).packed())}
    content = cache.read_bytes()[:size]
    try:
        assert ccache_format.parse(content).packed() == content
    except ValueError:
        assert size not in whole


# ---- many connections


@pytest.mark.engines
@pytest.mark.timeout(900)
def test_two_thousand_connections_leave_no_memory_behind(
    realm: Kerberized, serve: Callable[..., Instance]
) -> None:
    instance = serve(
        realm.by_keytab(realm.postgres.new_database()), "--datastore-connection-max-lifetime=1ms"
    )
    assert grown(instance) < 12 << 20  # was 34 MB while libpq's credentials were not small


def grown(instance: Instance, writes: int = 2000, *, before: int = 300) -> int:
    """Bytes by which the process grows in so many writes, each on a new connection."""
    with Client(instance.address) as client:
        for _ in range(before):
            put(client, b"0")
        size = resident(instance)
        for _ in range(writes):
            put(client, b"0")
        return resident(instance) - size


def resident(instance: Instance) -> int:
    pages = Path(f"/proc/{instance.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# ---- where a handshake takes place


@pytest.mark.parametrize(("query", "aside"), [("gssencmode=prefer", True), ("sslmode=disable", False)])
async def test_handshake_that_may_ask_a_kdc_is_off_the_event_loops_thread(query: str, aside: bool) -> None:
    begun: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        begun.append(any(thread.name == "identity" for thread in threading.enumerate()))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dsn = parse(f"postgres://kine@127.0.0.1:{port}/kine?{query}", Options())
    with pytest.raises(StatementError):
        await connect(dsn, dsn.database, None)
    server.close()
    assert begun[0] is aside
