"""More watchers than one turn of the event loop delivers to: each gets every event, once and in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kine.proto import rpc_pb2 as pb
from kine.store import event_delivery_queue, watch_hub, watcher_groups
from tests.in_process_server import Instance, Watching, new_memory, running, until

KEYS = [b"/a", b"/a/b", b"/a/b/c", b"/b", b"/b/a", b"/c"]
RANGES = [
    (b"/a", b""), (b"/b", b""), (b"/a", b"/b"), (b"/", b"0"), (b"/a/", b"/a0"), (b"/b", b"/c"),
    (b"\0", b"\0"), (b"/a", b"/a/b"), (b"/a/b", b"/b/b"), (b"/0", b"/d"), (b"/b", b"\0"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "_AT_ONCE", 3)
    monkeypatch.setattr(watch_hub, "_LIKE_A_WATCHER", 2)
    monkeypatch.setattr(event_delivery_queue, "_SHARE", 2)
    monkeypatch.setattr(watcher_groups, "_LENGTHS", 2)


def holds(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


@dataclass
class Seen:
    """The messages that one stream has received, checked as they arrive."""

    pipe: Watching
    ranges: dict[int, tuple[bytes, bytes, int]] = field(default_factory=dict)  # by id; start revision
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    events: dict[int, list[tuple[int, bytes, bool]]] = field(default_factory=dict)
    noticed: int = 0

    def take(self) -> None:
        for answer in self.pipe.all():
            if answer.created:
                self.ranges[answer.watch_id] = (*self.asked[answer.watch_id], answer.header.revision + 1)
                self.events[answer.watch_id] = []
            elif answer.canceled:
                del self.ranges[answer.watch_id]
            elif not answer.events:
                assert answer.watch_id == -1
                self.noticed = max(self.noticed, answer.header.revision)
                told = [event[0] for events in self.events.values() for event in events]
                assert max(told, default=0) <= answer.header.revision
            for event in answer.events:
                assert answer.watch_id in self.ranges
                assert event.kv.mod_revision > self.noticed, "it had been told that there is no more"
                deleted = event.type == event.DELETE
                self.events[answer.watch_id].append((event.kv.mod_revision, event.kv.key, deleted))


class Traffic:
    def __init__(self, instance: Instance, seed: int) -> None:
        self.instance = instance
        self.chance = random.Random(seed)
        self.log: list[tuple[int, bytes, bool]] = []
        self.streams = [Seen(instance.watch(client=client)) for client in ("one", "one", "other")]

    async def step(self) -> None:
        chance = self.chance
        stream = chance.choice(self.streams)
        kind = chance.randrange(12)
        if kind < 3:
            stream.asked.append(chance.choice(RANGES))
            stream.pipe.create(*stream.asked[-1])
        elif kind < 6:
            await self.write()
        elif kind == 6:
            await asyncio.gather(*(self.write() for _ in range(4)))
        elif kind == 7:
            stream.pipe.ask_progress()
        elif kind == 8:
            stream.pipe.fill()
        elif kind == 9 or not stream.ranges:
            stream.pipe.empty()
        elif kind == 10:
            stream.pipe.cancel(chance.choice(list(stream.ranges)))
        for _ in range(chance.choice([0, 0, 1, 2, 5, 20])):
            await asyncio.sleep(0)
        stream.take()

    async def write(self) -> None:
        key = self.chance.choice(KEYS)
        if self.chance.random() < 0.2:
            answer = await self.instance.call(pb.DeleteRangeRequest(key=key))
            if answer.deleted:
                self.log.append((answer.header.revision, key, True))
        else:
            self.log.append((await self.instance.put(key), key, False))

    def revision_to_reach(self) -> Iterator[str]:
        for stream in self.streams:
            stream.take()
            for watch_id, (key, end, start) in stream.ranges.items():
                wanted = [each for each in sorted(self.log) if each[0] >= start and holds(each[1], key, end)]
                got = stream.events[watch_id]
                assert got == wanted[: len(got)], (watch_id, key, end, start)
                if got != wanted:
                    yield f"{watch_id} of {key!r}: {got} of {wanted}"


@pytest.mark.parametrize("seed", range(40))
async def test_each_watcher_is_told_everything_once_and_in_order(seed: int) -> None:
    async with running(new_memory()) as instance:
        traffic = Traffic(instance, seed)
        for _ in range(150):
            await traffic.step()
        for stream in traffic.streams:
            stream.pipe.empty()
        await until(lambda: not list(traffic.revision_to_reach()))
        assert any(stream.events for stream in traffic.streams)


async def test_progress_is_told_once_the_backlog_is() -> None:
    async with running(new_memory()) as instance:
        pipe = instance.watch()
        for _ in range(20):
            pipe.create(b"/a")
        await until(lambda: instance.store.hub.watchers == 20)
        pipe.all()
        revision = await instance.put(b"/a")
        pipe.ask_progress()
        answers = [await pipe.next() for _ in range(21)]

    assert [len(answer.events) for answer in answers] == [1] * 20 + [0]
    assert answers[-1].header.revision == revision


async def test_client_with_few_watchers_is_not_behind_one_with_many() -> None:
    async with running(new_memory()) as instance:
        many, few = instance.watch(client="many"), instance.watch(client="few")
        for _ in range(50):
            many.create(b"/a")
        await until(lambda: instance.store.hub.watchers == 50)
        few.create(b"/", b"0")
        await until(lambda: instance.store.hub.watchers == 51)
        for pipe in (many, few):
            pipe.all()
        await instance.put(b"/a")
        await few.events(1)
        before = len(many.all())
        await many.events(50 - before)

    assert before < 25


async def test_index_that_is_read_anew_finds_the_backlog_told() -> None:
    async with running(new_memory()) as instance:
        pipe, hub = instance.watch(), instance.store.hub
        for _ in range(20):
            pipe.create(b"/a")
        await until(lambda: hub.watchers == 20)
        pipe.all()
        first = await instance.put(b"/a")
        hub.overtaken(first)
        second = await instance.put(b"/a")
        events = await pipe.events(40)

    assert sorted(event.kv.mod_revision for event in events) == [first] * 20 + [second] * 20


async def test_watches_of_the_future_that_are_cancelled_leave_nothing() -> None:
    async with running(new_memory()) as instance:
        pipe = instance.watch()
        for number in range(500):
            pipe.create(b"/a", start_revision=1_000_000)
            pipe.cancel(number)
        answers = [await pipe.next() for _ in range(1_000)]
        (session,) = instance.served.watch.sessions

    assert answers[-1].canceled
    assert len(session._ahead) < 10
