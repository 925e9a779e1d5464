"""Three instances on one database: what only one may do at a time, and which events each must see."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest

from kine.drivers.postgres.statements import TURN_KEY
from tests.client import DELETE, Client, WatchStream, prefix_end
from tests.drivers.driver_databases import Place
from tests.faults.run_databases import KINDS, missing, new_place, start_together

if TYPE_CHECKING:
    from kine.proto import kv_pb2 as kv
    from tests.servers.process import Instance

PATIENCE = 60.0  # seconds, for what happens without a request
HELD = 15.0  # seconds, longer than the 10 s a held revision is waited for by default
LEASES = 12
TTL = 5  # seconds, in which a lease is put to use

# What an instance must hold to write, and whether one waits for that.
TURN = {
    "postgres": f"SELECT pg_advisory_xact_lock({TURN_KEY})",
    "mysql": "SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE",
}
WAITING = {
    "postgres": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


class Trio(NamedTuple):
    place: Place
    instances: list[Instance]


@pytest.fixture(scope="module")
def trios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trio]]:
    made = {}
    for kind in KINDS:
        if not missing(kind):
            place = new_place(kind)
            made[kind] = Trio(place, start_together(place.endpoint(), tmp_path_factory.mktemp(kind), 3))
    yield made
    for trio in made.values():
        for instance in trio.instances:
            instance.kill()


@pytest.fixture(params=KINDS)
def trio(request: pytest.FixtureRequest, trios: dict[str, Trio]) -> Trio:
    if reason := missing(request.param):
        pytest.skip(reason)
    return trios[request.param]


@pytest.fixture
def clients(trio: Trio) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Client(instance.address)) for instance in trio.instances]


def until(watch: WatchStream, key: bytes) -> list[kv.Event]:
    """The watch's events before the first of this key."""
    events: list[kv.Event] = []
    while not events or events[-1].kv.key != key:
        events.extend(watch.receive(PATIENCE).events)
    return events[:-1]


@pytest.mark.slow
def test_a_lease_expires_once_whoever_granted_it(clients: list[Client], prefix: bytes) -> None:
    with ExitStack() as stack:
        watches = [stack.enter_context(client.watch()) for client in clients]
        start = clients[0].revision() + 1
        for watch in watches:
            watch.create(prefix, prefix_end(prefix), start_revision=start)
        keys = [prefix + b"%02d" % number for number in range(LEASES)]
        for number, key in enumerate(keys):
            granted = clients[number % 3].grant(TTL)
            clients[(number + 1) % 3].put(key, b"leased", lease=granted.ID)
        while clients[0].range(prefix, prefix_end(prefix), count_only=True).count:
            time.sleep(0.05)
        clients[2].put(prefix + b"last")
        told = [until(watch, prefix + b"last") for watch in watches]

    assert sorted(event.kv.key for event in told[0] if event.type == DELETE) == keys
    assert told[1] == told[0]
    assert told[2] == told[0]


def test_a_lease_that_another_instance_revoked_is_not_kept_alive(
    clients: list[Client], prefix: bytes
) -> None:
    granted = clients[0].grant(60)
    clients[1].put(prefix, lease=granted.ID)
    assert clients[2].time_to_live(granted.ID).grantedTTL == 60
    clients[0].revoke(granted.ID)

    assert clients[2].keep_alive_once(granted.ID).TTL == 0
    assert clients[1].keep_alive_once(granted.ID).TTL == 0
    assert clients[1].get(prefix) is None


def test_leases_are_listed_by_every_instance(clients: list[Client]) -> None:
    granted = {clients[0].grant(600).ID, clients[1].grant(60).ID}
    revoked = clients[0].grant(60).ID
    assert all(granted | {revoked} <= client.leases() for client in clients)
    clients[1].revoke(revoked)

    assert all(granted <= (listed := client.leases()) and revoked not in listed for client in clients)


def test_a_lease_that_another_instance_is_expiring_is_not_kept_alive(
    trio: Trio, clients: list[Client], prefix: bytes
) -> None:
    """One instance has found it due and cannot delete its key yet, when the other is asked to renew it."""
    granted = clients[0].grant(TTL)
    put = clients[0].put(prefix, lease=granted.ID).header.revision
    assert clients[1].time_to_live(granted.ID).grantedTTL == TTL
    go = trio.place.go()
    go.begin()
    try:
        go.run(TURN[trio.place.kind])
        while not go.run(WAITING[trio.place.kind])[0][0]:
            time.sleep(0.15)  # at shorter intervals MariaDB repeats its previous result
        told = clients[1].keep_alive_once(granted.ID).TTL
    finally:
        go.rollback()
        go.close()
    with clients[2].watch() as watch:
        watch.create(prefix, start_revision=put + 1)
        assert watch.events(1)[0].type == DELETE

    assert told == 0, "the key is gone"


def test_instances_that_compact_at_once_agree(trio: Trio, clients: list[Client], prefix: bytes) -> None:
    for number in range(30):
        clients[number % 3].put(prefix + b"%d" % (number % 4), b"%d" % number)
    clients[0].delete(prefix + b"0")
    head = clients[1].put(prefix + b"1", b"last").header.revision
    asked = [head - 2, head, head - 1]

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(compacted, clients, asked))

    assert answers[1] == "", "nobody went further"
    assert {answers[0], answers[2]} <= {"", "etcdserver: mvcc: required revision has been compacted"}
    after = clients[1].put(prefix + b"after").header.revision  # with it, lagging instances catch up
    for client in clients:
        assert client.revision() == after
        with client.watch() as watch:
            watch.create(prefix, prefix_end(prefix), start_revision=1)
            assert watch.receive().compact_revision == head
    writer = trio.place.go()
    try:
        assert writer.run("SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'") == [(head,)]
        superseded = (
            "SELECT k.id FROM kine AS k JOIN kine AS later ON later.prev_revision = k.id"
            " WHERE later.id <= ? AND k.name != 'compact_rev_key' AND later.name != 'compact_rev_key'"
        )
        assert writer.run(superseded, (head,)) == []
        assert writer.run("SELECT id FROM kine WHERE deleted = 1 AND id < ?", (head,)) == []
    finally:
        writer.close()


def compacted(client: Client, revision: int) -> str:
    try:
        client.compact(revision)
    except grpc.RpcError as error:
        return str(error.details())
    return ""


@pytest.mark.engines
def test_a_revision_held_for_15_seconds_loses_nothing(trios: dict[str, Trio], prefix: bytes) -> None:
    """On all kinds of database concurrently, as most of the time is spent waiting."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda trio: hold(trio, prefix), trios.values()))


def hold(trio: Trio, prefix: bytes) -> None:
    written: list[int] = []
    stop = threading.Event()

    def write(address: str, name: bytes) -> None:
        with Client(address, timeout=PATIENCE) as client:
            for number in range(10_000):
                written.append(client.put(prefix + name + b"%d" % number).header.revision)
                if stop.wait(0.05):
                    return

    go = trio.place.go()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(instance.address)) for instance in trio.instances]
        watches = [stack.enter_context(client.watch()) for client in clients]
        start = clients[0].revision() + 1
        for watch in watches:
            watch.create(prefix, prefix_end(prefix), start_revision=start)
        go.begin()
        go.create(prefix.decode() + "held")
        released = time.monotonic() + HELD
        writers = [
            threading.Thread(target=write, args=(instance.address, b"%d/" % number))
            for number, instance in enumerate(trio.instances[:2])
        ]
        for writer in writers:
            writer.start()
        # After the bound, on every instance: while the transaction still holds its revision.
        first = [watch.receive(PATIENCE).events for watch in watches]
        stop.wait(max(0.0, released - time.monotonic()))
        go.rollback()
        go.close()
        stop.set()
        for writer in writers:
            writer.join(PATIENCE)
        clients[2].put(prefix + b"last")
        told = [
            [*events, *until(watch, prefix + b"last")] for events, watch in zip(first, watches, strict=True)
        ]

    for events in told:
        assert [event.kv.mod_revision for event in events] == sorted(written)
    assert len(written) > 2


def test_no_put_on_a_hot_key_fails(trio: Trio) -> None:
    """Unconditional puts of many clients to one key, through all instances: each succeeds, none is lost."""
    key, writers, times = b"/registry/hot", 16, 20
    fleet = [Client(trio.instances[n % len(trio.instances)].address) for n in range(writers)]

    def write(number: int) -> None:
        for _ in range(times):
            fleet[number].put(key, b"%d" % number)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))

    assert fleet[0].range(key).kvs[0].version == writers * times
    for client in fleet:
        client.close()
