"""What becomes of a compaction that was begun."""

from __future__ import annotations

import asyncio

import pytest

from kine.store.compactor import Compactor, Policy
from kine.store.index import Entry, Index

ROWS = 3_000


class Database:
    """A driver whose steps wait until they are let go."""

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
    """Hears how it went."""

    def __init__(self) -> None:
        self.how: list[str] = []
        self.heard = asyncio.Event()

    def __call__(self, how: str) -> None:
        self.how.append(how)
        self.heard.set()


def compactor_of(database: Database) -> tuple[Compactor, Ended]:
    index = Index()
    for revision in range(1, ROWS + 1):
        index.apply(Entry(b"/a", revision, 1, revision, 0, index.newest.get(b"/a")))
    index.revision = ROWS
    ended = Ended()
    return Compactor(database, index, lambda to: index.compact(to)[0], Policy(min_retain=0), ended), ended


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


async def test_closing_gives_up_what_was_begun():
    database = Database()
    compactor, ended = compactor_of(database)
    asked = asyncio.create_task(compactor.request(ROWS))
    await database.begun.wait()

    await compactor.close()

    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (database.compacted_to, ended.how) == (0, ["error"])
