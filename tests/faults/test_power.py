"""Power loss, which clears everything in memory: acknowledged writes survive as databases promise."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client, prefix_end
from tests.commands.conftest import told
from tests.databases import loop_disk, mysql, nats, postgres
from tests.databases.loop_disk import Disk
from tests.databases.process import DatabaseServer
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(loop_disk.missing()), reason=loop_disk.missing() or "-"),
]
PREFIX = b"/registry/power/"
WRITERS = 4
ENOUGH = 200  # writes that were acknowledged
SIZES = {"mysql": 768}  # mebibytes
CHECKED = ("sqlite", "postgres", "mysql")


@dataclass(frozen=True, slots=True)
class Place:
    kind: str
    endpoint: str
    disk: Disk
    server: DatabaseServer | None = None


def sqlite(parent: Path) -> tuple[str, None]:
    return f"sqlite://{parent / 'state.db'}?_synchronous=FULL", None


def on_postgres(parent: Path) -> tuple[str, DatabaseServer]:
    server = postgres.Postgres("fsync=on", "max_wal_size=64MB", "min_wal_size=32MB", parent=parent)
    return server.endpoint(server.new_database()), server.server


def on_mysql(parent: Path) -> tuple[str, DatabaseServer]:
    server = mysql.Mysql("innodb-flush-log-at-trx-commit=1", "innodb-doublewrite=1", parent=parent)
    return server.endpoint(server.new_database()), server.server


def on_nats(parent: Path) -> tuple[str, DatabaseServer]:
    server = nats.Nats(parent=parent, sync="always")
    return server.endpoint(server.new_bucket()), server.servers[0]


MADE: dict[str, tuple[Callable[[Path], tuple[str, DatabaseServer | None]], Callable[[], str]]] = {
    "sqlite": (sqlite, lambda: ""),
    "postgres": (on_postgres, postgres.missing),
    "mysql": (on_mysql, mysql.missing),
    "nats": (on_nats, nats.missing),
}


# The others each start a separate server: `make test-engines`.
@pytest.fixture(
    params=["sqlite", *(pytest.param(kind, marks=pytest.mark.engines) for kind in list(MADE)[1:])]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    make, missing = MADE[request.param]
    if reason := missing():
        pytest.skip(reason)
    made = Disk(SIZES.get(request.param, 256))
    endpoint, server = make(made.path)
    os.sync()  # what exists without it, such as a configuration, is not part of this
    yield Place(request.param, endpoint, made, server)
    if server is not None:
        server.kill()
    made.close()


def until_killed(instance: Instance, *others: DatabaseServer) -> dict[int, bytes]:
    """Acknowledged writes: key by revision."""
    acknowledged: dict[int, bytes] = {}
    enough = threading.Event()

    def write(number: int) -> None:
        with Client(instance.address) as client:
            try:
                for turn in range(100_000):
                    key = PREFIX + b"%d/%d" % (number, turn)
                    acknowledged[client.put(key, b"value of " + key).header.revision] = key
                    if len(acknowledged) >= ENOUGH:
                        enough.set()
            except grpc.RpcError:
                return

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    assert enough.wait(60)
    for server in others:
        server.kill()
    instance.kill()
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()
    return acknowledged


def found(client: Client) -> dict[int, bytes]:
    items = client.range(PREFIX, prefix_end(PREFIX)).kvs
    assert all(item.value == b"value of " + item.key for item in items)
    return {item.mod_revision: item.key for item in items}


def test_what_was_acknowledged_survives_a_loss_of_power(place: Place, tmp_path: Path) -> None:
    instance = start_kine(place.endpoint, "http2", tmp_path)
    acknowledged = until_killed(instance, *filter(None, [place.server]))
    place.disk.lose_power()
    if place.server is not None:
        place.server.start()
    instance = start_kine(place.endpoint, "http2", tmp_path)
    try:
        with Client(instance.address) as client:
            assert acknowledged.items() <= found(client).items()
            assert client.put(PREFIX + b"after").header.revision > max(acknowledged)
    finally:
        instance.kill()
    if place.kind in CHECKED:
        checked = told("check", "--endpoint", place.endpoint)
        assert (checked.code, checked.out) == (0, "nothing found\n")


def test_sqlite_by_default_loses_the_newest_writes_at_most(tmp_path: Path) -> None:
    """What remains is a prefix of the acknowledged writes, in a consistent database."""
    made = Disk(256)
    endpoint = f"sqlite://{made.path / 'state.db'}"
    try:
        acknowledged = until_killed(start_kine(endpoint, "http2", tmp_path))
        made.lose_power()
        instance = start_kine(endpoint, "http2", tmp_path)
        with Client(instance.address) as client:
            left = found(client)
            reached = client.revision()
        instance.kill()
        assert left.items() >= {(r, key) for r, key in acknowledged.items() if r <= reached}
        assert told("check", "--endpoint", endpoint).out == "nothing found\n"
    finally:
        made.close()
