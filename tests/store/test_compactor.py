"""Compactions that were started: the client disconnects, the store closes, revisions are retained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from kine.drivers.memory import _Rows
from kine.proto import rpc_pb2 as pb
from kine.store.compactor import Compactor, Policy
from kine.store.index import Entry, Index
from kine.store.store import StoreSettings
from kine.transport.base import RpcError
from tests.in_process_server import Held, running, start, within

ROWS = 3_000
RETAINING_NOTHING = StoreSettings(compaction=Policy(min_retain=0))


class Database:
    """A driver whose steps wait until the test releases them."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.compacted_to = 0

    async def compact_revision(self) -> int:
        return self.compacted_to

    async def compact(self, revision: int, versions: list[tuple[int, int]]) -> int:
        self.begun.set()
        await self.go.wait()
        self.compacted_to = revision
        return revision

    async def compacted(self) -> None:
        pass


class Ended:
    """Records how compactions ended."""

    def __init__(self) -> None:
        self.how: list[str] = []
        self.heard = asyncio.Event()

    def __call__(self, how: str) -> None:
        self.how.append(how)
        self.heard.set()


@dataclass(frozen=True, slots=True)
class Space:
    """The part of the writer that the compactor uses."""

    no_space: bool = False


@dataclass(frozen=True, slots=True)
class Alone:
    """An index that no watch stream or lease depends on."""

    index: Index

    def forget(self, revision: int) -> list[Entry]:
        return self.index.compact(revision)[0]

    async def save(self) -> None:
        pass


def compactor_of(database: Database, min_retain: int = 0, space: Space = Space()) -> tuple[Compactor, Ended]:
    index = Index()
    for revision in range(1, ROWS + 1):
        index.apply(Entry(b"/a", revision, 1, revision, 0, index.newest.get(b"/a")))
    index.revision = ROWS
    ended = Ended()
    policy = Policy(min_retain=min_retain)
    alone = Alone(index)
    return Compactor(database, policy, applier=alone, streams=alone, writer=space, observe=ended), ended


async def test_a_compaction_goes_on_when_its_client_has_gone():
    database = Database()
    compactor, ended = compactor_of(database)
    asked = asyncio.create_task(compactor.request(ROWS))
    await database.begun.wait()

    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    database.go.set()
    await asyncio.wait_for(ended.heard.wait(), 60)

    assert (database.compacted_to, ended.how) == (ROWS, ["success"])


async def test_closing_gives_up_what_was_begun_and_the_next_start_makes_up_for_it() -> None:
    rows = _Rows()
    log = Held(rows)
    kine = await start(log, RETAINING_NOTHING)
    for number in range(10):
        await kine.put(b"/t/key", b"%d" % number)
    revision = rows.head
    begun, _ = log.hold("compact")
    asked = asyncio.create_task(kine.store.compact(revision))
    await within(begun.wait())

    await within(kine.store.close())

    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (rows.compact_revision, b"/t/key" in rows.newest) == (0, True)
    await kine.close()
    async with running(Held(rows), RETAINING_NOTHING) as again:
        await again.call(pb.CompactionRequest(revision=revision))
        assert rows.compact_revision == revision
        assert (await again.get(b"/t/key")).kvs[0].version == 10
        with pytest.raises(RpcError, match="has been compacted"):
            await again.get(b"/t/key", revision=revision - 1)


@pytest.mark.parametrize(("retain", "reached"), [(0, ROWS), (1, ROWS - 1), (1000, ROWS - 1000), (ROWS, 0)])
async def test_the_newest_revisions_are_retained(retain: int, reached: int) -> None:
    database = Database()
    database.go.set()
    compactor, ended = compactor_of(database, retain)
    await within(compactor.request(ROWS))
    assert (database.compacted_to, ended.how) == (reached, ["success"])


async def test_a_full_database_retains_nothing() -> None:
    database = Database()
    database.go.set()
    compactor, _ = compactor_of(database, 1000, Space(no_space=True))
    await within(compactor.request(ROWS))
    assert database.compacted_to == ROWS


async def test_retained_revisions_are_readable_after_a_compaction() -> None:
    async with running("memory://", StoreSettings(compaction=Policy(min_retain=3))) as kine:
        for number in range(10):
            await kine.put(b"/t/key", b"%d" % number)
        now = kine.store.index.revision
        await kine.call(pb.CompactionRequest(revision=now))
        assert (await kine.get(b"/t/key", revision=now - 3)).kvs[0].value == b"6"
        with pytest.raises(RpcError, match="has been compacted"):
            await kine.get(b"/t/key", revision=now - 4)
