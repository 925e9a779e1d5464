"""The SQLite file: its owner, its contents, and what happens when the disk is full."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest

from kine.drivers.base import DriverError
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.preflight import check_file
from tests.client import Client
from tests.servers.kine import start_kine
from tests.servers.process import StartError
from tests.txn_ops import get, modified, put

GO_KINE = """
CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
    create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
CREATE INDEX kine_name_index ON kine (name);
INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, 0, 0, 0, x'', NULL);
INSERT INTO kine VALUES (2, '/registry/health', 1, 0, 0, 0, 0, '{"health":"true"}', NULL);
INSERT INTO kine VALUES (3, '/a', 1, 0, 0, 0, 0, CAST('one' AS BLOB), NULL);
INSERT INTO kine VALUES (4, '/a', 0, 0, 3, 3, 0, CAST('two' AS BLOB), CAST('one' AS BLOB));
INSERT INTO kine VALUES (5, '/b', 1, 0, 0, 0, 0, CAST('b' AS BLOB), NULL);
INSERT INTO kine VALUES (6, '/b', 0, 1, 0, 5, 0, NULL, CAST('b' AS BLOB));
INSERT INTO kine VALUES (7, 'gap-7', 0, 1, 0, 0, 0, NULL, NULL);
INSERT INTO kine VALUES (8, 'compact_rev_key_apiserver', 1, 0, 0, 0, 0, CAST('3|42' AS BLOB), NULL);
"""


def start(path: Path, *flags: str, parameters: str = ""):
    return start_kine(f"sqlite://{path}{parameters}", "http2", path.parent, flags=flags)


@pytest.fixture
def go_kine_file(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(GO_KINE)
    connection.close()
    return path


def indexes(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name FROM pragma_index_list('kine')")
        return {name for (name,) in found}


def insert(path: Path, statement: str) -> None:
    """Inserts a row from another process, as Go kine writes it."""
    with sqlite3.connect(path, timeout=60) as connection:
        connection.execute(statement)
    connection.close()


def test_file_of_go_kine_opens_and_serves(go_kine_file: Path) -> None:
    server = start(go_kine_file)
    with Client(server.address) as client:
        key = client.range(b"/a").kvs[0]
        compact = client.range(b"compact_rev_key").kvs[0]
        assert (key.value, key.version, key.create_revision, key.mod_revision) == (b"two", 2, 3, 4)
        assert client.range(b"/b").count == 0
        assert client.range(b"gap-", b"gap.").count == 0
        assert (compact.value, compact.version) == (b"42", 3)
        assert client.put(b"/b", b"again").header.revision == 9
    assert server.stop() == 0
    rows = sqlite3.connect(go_kine_file).execute("SELECT * FROM kine WHERE id = 9").fetchall()
    assert rows == [(9, "/b", 1, 0, 0, 6, 0, b"again", None)]
    assert indexes(go_kine_file) == {"kine_name_index", "kine_name_prev_revision_uindex"}


def test_rows_of_another_process_reach_watchers_once_and_in_order(go_kine_file: Path) -> None:
    server = start(go_kine_file)
    with Client(server.address) as client, client.watch() as watch:
        watch.create(b"/", b"0")
        insert(
            go_kine_file,
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
            " VALUES ('/from-go', 1, 0, 0, 0, 0, x'31')",
        )
        theirs = watch.events(1)[0]
        client.put(b"/from-us", b"2")
        ours = watch.events(1)[0]
    assert (theirs.kv.key, theirs.kv.mod_revision) == (b"/from-go", 9)
    assert (ours.kv.key, ours.kv.mod_revision) == (b"/from-us", 10)
    assert server.stop() == 0


def test_read_sees_what_another_process_has_just_committed(go_kine_file: Path) -> None:
    server = start(go_kine_file)
    with Client(server.address) as client:
        for revision in range(9, 59):
            insert(
                go_kine_file,
                "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
                f" SELECT '/a', 0, 0, 3, max(id), 0, x'31' FROM kine WHERE name = '/a' AND {revision}",
            )
            assert client.range(b"/a").kvs[0].mod_revision == revision
    assert server.stop() == 0


def test_two_servers_on_one_file_count_every_increment(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    servers = [start(path), start(path)]
    with Client(servers[0].address) as client:
        client.put(b"/counter", b"0")

    def increment(address: str) -> None:
        with Client(address) as client:
            done = 0
            while done < 50:
                kv = client.range(b"/counter").kvs[0]
                value = b"%d" % (int(kv.value) + 1)
                unchanged = modified(b"/counter", "=", kv.mod_revision)
                done += client.txn([unchanged], [put(b"/counter", value)]).succeeded

    threads = [threading.Thread(target=increment, args=(server.address,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for server in servers:
        with Client(server.address) as client:
            assert client.range(b"/counter").kvs[0].value == b"100"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/bin/sh\necho not a database\n" * 100, "not an SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 8000, "damaged"),
    ],
)
def test_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)

    with pytest.raises(StartError) as refused:
        start(path)

    assert "exit code 1" in str(refused.value)
    assert said in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER PRIMARY KEY, name TEXT)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StartError) as refused:
        start(path)

    assert "another program's SQLite database" in str(refused.value)
    assert path.read_bytes() == before


def test_damaged_page_is_found_before_anything_is_written(go_kine_file: Path) -> None:
    damaged = bytearray(go_kine_file.read_bytes())
    damaged[4096:8192] = b"\x5a" * 4096
    go_kine_file.write_bytes(damaged)

    with pytest.raises(DriverError, match="damaged"):
        check_file(str(go_kine_file), whole=True)

    assert go_kine_file.read_bytes() == damaged


def test_new_file_is_the_owners_alone_and_has_the_indexes_that_are_used(tmp_path: Path) -> None:
    path = tmp_path / "db" / "state.db"
    path.parent.mkdir(mode=0o700)
    server = start(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.stop() == 0
    assert indexes(path) == {
        "kine_name_prev_revision_uindex",
        "kine_name_id_index",
        "kine_id_deleted_index",
        "kine_id_compact_rev_key_with_prev_revision_index",
    }


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(client: Client) -> None:
    for number in range(200):
        client.put(b"/fill/%d" % number, b"y" * 100_000)


def test_full_disk_fails_writes_only_and_until_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 4 * 1024 * 1024)
    server = start_kine(f"sqlite://{small_disk / 'state.db'}", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/before", b"1")
        with pytest.raises(grpc.RpcError) as full:
            fill(client)
        assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert full.value.details() == "etcdserver: mvcc: database space exceeded"

        assert client.range(b"/before").kvs[0].value == b"1"

        filler.unlink()
        assert client.put(b"/after", b"2").header.revision > 0
        assert client.range(b"/after").kvs[0].value == b"2"
    assert server.stop() == 0


def test_write_ahead_log_is_copied_into_the_file_while_serving(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    instance = start(path)
    with Client(instance.address) as client:
        for number in range(40):
            client.put(b"/a/%d" % number, b"x" * 1_000_000)
        deadline = time.monotonic() + 30
        while path.stat().st_size < 10_000_000 and time.monotonic() < deadline:
            time.sleep(0.02)

    assert path.stat().st_size >= 10_000_000
    assert instance.stop() == 0


def test_every_acknowledged_write_outlives_sigterm(tmp_path: Path) -> None:
    server = start(tmp_path / "state.db")
    with Client(server.address) as client:
        acknowledged = [client.put(b"/k/%d" % number, b"v").header.revision for number in range(100)]
    assert server.stop() == 0
    server = start(tmp_path / "state.db")
    with Client(server.address) as client:
        assert [kv.mod_revision for kv in client.range(b"/k/", b"/k0").kvs] == [
            acknowledged[number] for number in sorted(range(100), key=lambda number: b"/k/%d" % number)
        ]
    assert server.stop() == 0


# ---- the endpoint


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("", "./db/state.db"),
        ("sqlite://", "./db/state.db"),
        ("sqlite:///var/lib/kine/state.db", "/var/lib/kine/state.db"),
        ("sqlite://data/state.db?_journal_mode=WAL&cache=shared", "data/state.db"),
        ("sqlite://file:///data/my%20state.db", "/data/my state.db"),
        ("sqlite:///data/my%20state.db", "/data/my%20state.db"),
        ("sqlite://file:/x.db?_busy_timeout=30000&_txlock=immediate&_stmt_cache_size=20", "/x.db"),
        ("litestream:///x.db", "/x.db"),
    ],
)
def test_path_of_an_endpoint(endpoint: str, path: str) -> None:
    assert parse(endpoint).path == path


def test_defaults_and_their_parameters() -> None:
    assert (parse("").journal_mode, parse("").synchronous, parse("").busy_timeout) == ("WAL", "NORMAL", 30.0)
    assert parse("sqlite://x?_synchronous=FULL").synchronous == "FULL"
    assert parse("sqlite://x?_sync=2").synchronous == "FULL"
    assert parse("sqlite://x?_timeout=500").busy_timeout == 0.5


@pytest.mark.parametrize(
    "parameters",
    [
        "_loc=auto", "_mutex=full", "_txlock=deferred", "_fk=1", "_foreign_keys=on", "_defer_fk=1", "_rt=1",
        "_case_sensitive_like=1", "_cslike=1", "_defer_foreign_keys=1", "_ignore_check_constraints=1",
        "_locking=EXCLUSIVE", "_locking_mode=NORMAL", "_recursive_triggers=1", "_writable_schema=0",
        "_auth", "_auth_user=u", "_auth_pass=p", "_auth_crypt=sha1", "_auth_salt=s", "_time_format=sqlite",
        "_inttotime=1", "psow=1", "vfs=unix-excl", "_pragma=mmap_size(1)", "more=rwc", "_stmt=1",
    ],
)  # fmt: skip
def test_parameter_without_effect_is_named(parameters: str) -> None:
    [warning] = parse(f"sqlite://x?{parameters}").warnings
    assert warning.startswith("these parameters of the endpoint have no effect: ")
    assert parse(f"sqlite://x?{parameters}").path == "x"


@pytest.mark.parametrize(
    "parameters",
    [
        "vfs=unix",
        "_query_only=0",
        "nolock=no",
        "_secure_delete=fast",
        "_vacuum=2",
        "_auto_vacuum=FULL",
        "mode=rwc",
    ],
)
def test_parameter_that_is_honoured_needs_no_warning(parameters: str) -> None:
    assert parse(f"sqlite://x?{parameters}").warnings == ()


def test_pragmas_of_the_other_go_driver() -> None:
    dsn = parse(
        "sqlite://x?_pragma=busy_timeout(5000)&_pragma=synchronous=FULL&_pragma=journal_mode('delete')"
    )
    assert (dsn.busy_timeout, dsn.synchronous, dsn.journal_mode) == (5.0, "FULL", "DELETE")


def test_the_first_of_two_values_counts() -> None:
    assert parse("sqlite://x?_busy_timeout=1000&_busy_timeout=2000").busy_timeout == 1.0


def test_mode_memory_needs_a_uri_as_in_go() -> None:
    assert not parse("sqlite://state.db?mode=memory").memory
    assert parse("sqlite://file:state.db?mode=memory").memory


def test_power_failures_with_synchronous_off_are_warned_of() -> None:
    assert "power failure" in parse("sqlite://x?_sync=OFF").warnings[0]


def test_switches_of_go_kine() -> None:
    dsn = parse("sqlite://x?_kine_disable_startup_vacuum&_kine_disable_wal_autocheckpoint")
    assert (dsn.startup_vacuum, dsn.wal_autocheckpoint, dsn.compact_wal_checkpoint) == (False, False, True)


@pytest.mark.parametrize(
    ("parameters", "gives_back", "notices"),
    [("", True, True), ("?_kine_disable_startup_vacuum", False, False)],
)
def test_the_startup_vacuum_and_the_check_of_all_pages_are_left_out_where_that_is_asked_for(
    tmp_path: Path, parameters: str, gives_back: bool, notices: bool
) -> None:
    path = tmp_path / "state.db"
    server = start(path)
    with Client(server.address) as client:
        client.put(b"/large", b"x" * 1_000_000)
        client.put(b"/kept")
        client.compact(client.delete(b"/large").header.revision)
    server.stop()
    size = path.stat().st_size
    assert size > 1_000_000

    start(path, parameters=parameters).stop()
    assert (path.stat().st_size < 500_000) is gives_back

    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        [(page,)] = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name LIKE 'kine_id_compact_rev_key%_index'"
        )
        [(page_size,)] = connection.execute("PRAGMA page_size")
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * page_size + 3)
        file.write(b"\xff\xff\xff\xff")  # cells that lie outside of the page
    if notices:
        with pytest.raises(StartError, match="damaged"):
            start(path, parameters=parameters)
    else:
        start(path, parameters=parameters).kill()


def test_litestream_is_left_all_checkpoints_and_vacuums() -> None:
    dsn = parse("litestream:///x.db")
    assert (dsn.startup_vacuum, dsn.wal_autocheckpoint, dsn.compact_wal_checkpoint) == (False, False, False)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ("?_synchronous=MAYBE", "synchronous"),
        ("?_timeout=soon", "timeout"),
        ("?_journal=MEMORY", "journal_mode"),
        ("?_journal_mode=off", "journal_mode"),
        ("?_pragma=journal_mode(OFF)", "journal_mode"),
        ("?mode=ro", "mode"),
        ("?_query_only=true", "query_only"),
        ("?nolock=1", "nolock"),
        ("?immutable=1", "immutable"),
        ("?vfs=unix-none", "vfs"),
        ("?vfs=unheard-of", "vfs"),
    ],
)
def test_parameter_that_is_wrong_or_endangers_the_data_is_named(parameters: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse("sqlite:///x.db" + parameters)


def test_nothing_rests_on_values_being_cached(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    server = start(path, "--value-cache-bytes=0")
    with Client(server.address) as client:
        first = client.put(b"/a", b"one").header.revision
        refused = client.txn([modified(b"/a", "=", 0)], [put(b"/a", b"two")], [get(b"/a")])
        assert not refused.succeeded
        [kv] = refused.responses[0].response_range.kvs
        assert (kv.value, kv.mod_revision) == (b"one", first)
        assert client.txn([modified(b"/a", "=", first)], [put(b"/a", b"two")], [get(b"/a")]).succeeded
        assert client.range(b"/a").kvs[0].value == b"two"
    assert server.stop() == 0
    rows = sqlite3.connect(path).execute("SELECT value, old_value FROM kine WHERE name = '/a' ORDER BY id")
    assert rows.fetchall() == [(b"one", None), (b"two", b"one")]
