"""SIGKILL under load and a restart on the same data: no acknowledged write is lost or renumbered."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.proto import kv_pb2 as kv
from tests.client import DELETE, Client, prefix_end

if TYPE_CHECKING:
    from tests.conftest import StartOwn
    from tests.servers import Backend
    from tests.servers.process import Instance

ROUNDS = 3
PATIENCE = 60.0  # seconds, for what is waited for
WRITERS = 6
ACKNOWLEDGED = 150  # in each round, before the server is killed
KEYS = 5  # a writer
PREFIX = b"/registry/kill/"
END = prefix_end(PREFIX)


@dataclass(frozen=True, slots=True)
class Written:
    revision: int
    key: bytes
    value: bytes | None  # None: deleted


@dataclass(slots=True)
class Load:
    """Writers, each with its own keys and one write at a time, until the server is gone."""

    address: str
    round: int
    acknowledged: list[Written] = field(default_factory=list)
    attempted: set[bytes] = field(default_factory=set)
    enough: threading.Event = field(default_factory=threading.Event)

    def write(self, number: int) -> None:
        with Client(self.address) as client:
            try:
                for turn in range(100_000):
                    key = PREFIX + b"%d/%d" % (number, turn % KEYS)
                    if turn % 7 == 6:
                        answer = client.delete(key)
                        done = Written(answer.header.revision, key, None) if answer.deleted else None
                    else:
                        value = b"%d-%d-%d" % (self.round, number, turn)
                        self.attempted.add(value)
                        done = Written(client.put(key, value).header.revision, key, value)
                    if done is not None:
                        self.acknowledged.append(done)
                    if len(self.acknowledged) >= ACKNOWLEDGED:
                        self.enough.set()
            except grpc.RpcError:
                return

    def until_killed(self, instance: Instance) -> None:
        writers = [threading.Thread(target=self.write, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        assert self.enough.wait(PATIENCE)
        instance.kill()
        for writer in writers:
            writer.join(PATIENCE)
            assert not writer.is_alive()


@pytest.mark.slow
@pytest.mark.quick_on("sqlite", "postgres", "nats-embedded")
def test_kill_loses_nothing_and_reuses_no_revision(backend: Backend, own_server: StartOwn) -> None:
    if backend.transport == "grpcio" or not backend.capabilities.survives_kill:
        pytest.skip("one transport is enough" if backend.transport == "grpcio" else "not after SIGKILL")
    acknowledged: list[Written] = []
    attempted: set[bytes] = set()
    followed: list[kv.Event] = []  # received by a watch that is resumed after each restart
    instance = own_server(durable=True)
    with Client(instance.address) as client:
        first = client.revision() + 1
    for number in range(ROUNDS):
        load = Load(instance.address, number)
        with Client(instance.address) as client, client.watch() as watch:
            resumed = followed[-1].kv.mod_revision + 1 if followed else first
            watch.create(PREFIX, END, start_revision=resumed)
            load.until_killed(instance)
            followed += what_came(watch)
        acknowledged += load.acknowledged
        attempted |= load.attempted
        instance = own_server(durable=True)

    with Client(instance.address) as client, client.watch() as watch:
        head = client.put(PREFIX + b"last", b"last").header.revision
        resumed = followed[-1].kv.mod_revision + 1 if followed else first
        watch.create(PREFIX, END, start_revision=resumed)
        followed += until(watch, head)
        with client.watch() as again:
            again.create(PREFIX, END, start_revision=first)
            history = until(again, head)
        present = {item.key: item.value for item in client.range(PREFIX, END).kvs}

    assert followed == history
    revisions = [event.kv.mod_revision for event in history]
    if not backend.capabilities.one_revision_per_txn:
        assert revisions == sorted(set(revisions))
    told = {event.kv.mod_revision: written(event) for event in history}
    assert [one for one in acknowledged if told.get(one.revision) != one] == []
    assert len({one.revision for one in acknowledged}) == len(acknowledged)
    assert {event.kv.value for event in history if event.type != DELETE} <= attempted | {b"last"}
    assert present == state_after(history)


def written(event: kv.Event) -> Written:
    value = None if event.type == DELETE else event.kv.value
    return Written(event.kv.mod_revision, event.kv.key, value)


def what_came(watch: object) -> list[kv.Event]:
    """Every event up to the stream's end."""
    events: list[kv.Event] = []
    try:
        while True:
            events.extend(watch.receive().events)  # type: ignore[attr-defined]
    except (grpc.RpcError, EOFError, queue.Empty):
        return events


def until(watch: object, revision: int) -> list[kv.Event]:
    events: list[kv.Event] = []
    while not events or events[-1].kv.mod_revision < revision:
        events.extend(watch.receive().events)  # type: ignore[attr-defined]
    return events


def state_after(history: list[kv.Event]) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    for event in history:
        if event.type == DELETE:
            state.pop(event.kv.key, None)
        else:
            state[event.kv.key] = event.kv.value
    return state
