"""Full and frozen disks under a database: writes fail or wait meanwhile, and succeed afterwards.

MariaDB may exit when a table's file cannot grow, and a NATS server has to be started again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.client import Client, WatchStream, prefix_end
from tests.databases import loop_disk, mysql, nats, postgres
from tests.databases.loop_disk import Disk
from tests.databases.process import unprivileged
from tests.faults.run_databases import new_place
from tests.servers.kine import start_kine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(loop_disk.missing()), reason=loop_disk.missing() or "-"),
]
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
SIZES = {"mysql": 768, "nats": 48}  # mebibytes
BOUND = 20.0  # seconds within which a call is answered
PREFIX = b"/registry/disk/"


@pytest.fixture
def small() -> Iterator[Disk]:
    made = Disk(48)
    yield made
    made.close()


@pytest.fixture
def sqlite(small: Disk) -> str:
    return f"sqlite://{small.path / 'state.db'}"


@pytest.fixture
def postgres_endpoint(small: Disk) -> Iterator[str]:
    """A tablespace on the disk. The server's log is elsewhere: it would exit if it could not write that."""
    if reason := postgres.missing():
        pytest.skip(reason)
    place = small.path / "tablespace"
    place.mkdir(mode=0o700)
    if user := unprivileged("postgres"):
        shutil.chown(place, user)
    server = new_place("postgres").server  # type: ignore[attr-defined]
    database = server.new_database()
    with server.admin() as admin:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        admin.execute(f"CREATE DATABASE {database} TABLESPACE small")
    yield server.endpoint(database)
    with server.admin() as admin:
        admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
        admin.execute("DROP TABLESPACE small")


@pytest.fixture(params=["sqlite", "postgres"])
def endpoint(request: pytest.FixtureRequest, small: Disk) -> str:
    name = request.param if request.param == "sqlite" else f"{request.param}_endpoint"
    return str(request.getfixturevalue(name))


def test_a_disk_that_is_full(endpoint: str, small: Disk, tmp_path: Path) -> None:
    instance = start_kine(endpoint, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client, client.watch() as watch:
            client.put(PREFIX + b"before", b"1")
            watch.create(PREFIX, prefix_end(PREFIX))
            small.fill()
            assert refusal(client) == FULL
            assert client.get(PREFIX + b"before").value == b"1"
            assert client.alarms().alarms
            small.free()
            reaches(watch, recovered(client))
            assert not client.alarms().alarms
            assert client.delete(PREFIX + b"before").deleted == 1
            client.compact(client.revision())
    finally:
        instance.kill()


def test_a_disk_that_stands_still(endpoint: str, small: Disk, tmp_path: Path) -> None:
    """Writes wait, and then return; no read returns what is not committed."""
    instance = start_kine(endpoint, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client, client.watch() as watch:
            watch.create(PREFIX, prefix_end(PREFIX))
            frozen = threading.Thread(target=small.freeze, args=(1.0,))
            frozen.start()
            written = [client.put(PREFIX + b"%d" % number).header.revision for number in range(20)]
            frozen.join()
            written.append(client.put(PREFIX + b"last").header.revision)
            reaches(watch, written[-1])
            assert written == sorted(set(written))
    finally:
        instance.kill()


def test_sqlite_is_started_on_a_disk_that_is_full(sqlite: str, small: Disk, tmp_path: Path) -> None:
    """After a kill, it serves reads, refuses writes, and accepts them once there is space."""
    instance = start_kine(sqlite, "http2", tmp_path)
    with Client(instance.address) as client:
        client.put(PREFIX + b"before", b"1")
    small.fill()
    instance.kill()
    instance = start_kine(sqlite, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client:
            assert client.get(PREFIX + b"before").value == b"1"
            assert refusal(client) == FULL
            small.free()
            recovered(client)
    finally:
        instance.kill()


def test_sqlite_deletes_and_compacts_on_a_disk_it_has_filled(
    sqlite: str, small: Disk, tmp_path: Path
) -> None:
    """Space freed inside the file is used again, though the disk stays full."""
    instance = start_kine(sqlite, "http2", tmp_path, flags=("--compact-min-retain=1000",))
    try:
        with Client(instance.address, timeout=BOUND) as client:
            keys = {PREFIX + b"before": 1}
            with pytest.raises(grpc.RpcError) as refused:
                fill_up(client, keys)
            assert (refused.value.code(), refused.value.details()) == FULL
            assert refusal(client) == FULL
            small.fill()
            for key in client.range(PREFIX, prefix_end(PREFIX), keys_only=True).kvs:
                assert client.delete(key.key).deleted == 1
            assert client.alarms().alarms
            client.compact(client.revision())
            written = [client.put(PREFIX + b"%d" % number, os.urandom(1 << 18)) for number in range(40)]
            assert not client.alarms().alarms
            assert client.range(PREFIX, prefix_end(PREFIX), count_only=True).count == len(written)
    finally:
        instance.kill()


@contextmanager
def glances(path: Path) -> Iterator[None]:
    """Another process opens short read transactions: each keeps the WAL until it ends."""
    ended = threading.Event()

    def look() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            while not ended.wait(0.03):
                reader.execute("BEGIN")
                reader.execute("SELECT max(id) FROM kine").fetchone()
                ended.wait(0.03)
                reader.execute("COMMIT")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def test_sqlite_uses_what_was_freed_on_a_full_disk_beside_readers(
    sqlite: str, small: Disk, tmp_path: Path
) -> None:
    instance = start_kine(sqlite, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client:
            keys: dict[bytes, int] = {}
            with pytest.raises(grpc.RpcError):
                fill_up(client, keys)
            small.fill()
            with glances(small.path / "state.db"):
                for key in client.range(PREFIX, prefix_end(PREFIX), keys_only=True).kvs:
                    assert client.delete(key.key).deleted == 1
                client.compact(client.revision())
                for number in range(60):
                    client.put(PREFIX + b"%d" % number, os.urandom(1 << 17))
    finally:
        instance.kill()


def test_sqlite_keeps_room_for_deletions_when_others_fill_the_disk(
    sqlite: str, small: Disk, tmp_path: Path
) -> None:
    reserve = small.path / "state.db-reserve"
    instance = start_kine(sqlite, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client:
            lease = client.grant(3600).ID
            for number in range(200):
                client.put(PREFIX + b"%d" % number, b"v" * 1000, lease=lease if number < 20 else 0)
            before = client.status().dbSize
            assert before > reserve.stat().st_size > 4_000_000
            small.fill()
            assert refusal(client) == FULL
            for number in range(100, 200):
                client.delete(PREFIX + b"%d" % number)
            client.compact(client.revision())
            assert client.keep_alive_once(lease).TTL > 0
            client.revoke(lease)
            assert client.range(PREFIX, prefix_end(PREFIX), count_only=True).count == 80
            assert reserve.stat().st_size == 0
            assert refusal(client) == FULL
    finally:
        instance.kill()
    instance = start_kine(sqlite, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client:
            assert client.delete(PREFIX + b"99").deleted == 1
            assert refusal(client) == FULL
            small.free()
            recovered(client)
            assert reserve.stat().st_size > 4_000_000
            assert not client.alarms().alarms
    finally:
        instance.kill()


def test_postgres_deletes_all_where_there_is_room_for_little(
    postgres_endpoint: str, small: Disk, tmp_path: Path
) -> None:
    """In a full database, the row of a deletion contains no copy of the deleted value."""
    reserve = small.path / "reserve"
    reserve.write_bytes(os.urandom(1 << 20))
    instance = start_kine(postgres_endpoint, "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client:
            keys: dict[bytes, int] = {}
            with pytest.raises(grpc.RpcError) as refused:
                fill_up(client, keys)
            assert (refused.value.code(), refused.value.details()) == FULL
            reserve.unlink()
            for key in keys:
                assert client.delete(key).deleted == 1
            client.compact(client.revision())
            assert client.range(PREFIX, prefix_end(PREFIX), count_only=True).count == 0
    finally:
        instance.kill()


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["mysql", "nats"])
def test_a_disk_that_is_full_under_a_server_to_be_started_again(kind: str, tmp_path: Path) -> None:
    module = {"mysql": mysql, "nats": nats}[kind]
    if reason := module.missing():
        pytest.skip(reason)
    small = Disk(SIZES[kind])
    database = mysql.Mysql(parent=small.path) if kind == "mysql" else nats.Nats(parent=small.path)
    server = database.server if isinstance(database, mysql.Mysql) else database.servers[0]
    instance = start_kine(database.endpoint("kine"), "http2", tmp_path)
    try:
        with Client(instance.address, timeout=BOUND) as client, client.watch() as watch:
            first = client.put(PREFIX + b"before", b"1").header.revision
            watch.create(PREFIX, prefix_end(PREFIX), start_revision=first)
            small.fill()
            acknowledged = {PREFIX + b"before": first}
            with pytest.raises(grpc.RpcError) as refused:
                fill_up(client, acknowledged)
            assert refused.value.code() in (FULL[0], grpc.StatusCode.UNAVAILABLE)
            small.free()
            server.kill()
            server.start()
            last = recovered(client, FULL[0], grpc.StatusCode.UNAVAILABLE)
            present = {item.key: item.mod_revision for item in client.range(PREFIX, prefix_end(PREFIX)).kvs}
            assert acknowledged.items() <= present.items()
            reaches(watch, last)
    finally:
        instance.kill()
        server.kill()
        small.close()


def fill_up(client: Client, acknowledged: dict[bytes, int]) -> None:
    """Writes until a write is refused, which comes soon."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        key = PREFIX + b"%d" % len(acknowledged)
        acknowledged[key] = client.put(key, os.urandom(1 << 18)).header.revision
    raise AssertionError("no write is refused")


def refusal(client: Client) -> tuple[grpc.StatusCode, str]:
    """The error of the first write that is refused, which comes soon."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        try:
            client.put(PREFIX + b"more", os.urandom(1 << 18))
        except grpc.RpcError as error:
            return error.code(), error.details()
    raise AssertionError("no write is refused")


def recovered(client: Client, *meanwhile: grpc.StatusCode) -> int:
    """The revision of the first write that is accepted again."""
    deadline = time.monotonic() + BOUND
    while True:
        try:
            return int(client.put(PREFIX + b"after").header.revision)
        except grpc.RpcError as error:
            expected = error.code() in meanwhile or (error.code(), error.details()) == FULL
            if not expected or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def reaches(watch: WatchStream, revision: int) -> None:
    last = 0
    while last < revision:
        last = watch.receive(BOUND).events[-1].kv.mod_revision
