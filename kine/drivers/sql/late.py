"""Revisions that were given up because a transaction held them too long, and what becomes of those.

Mostly that transaction is rolled back in the end. If it is committed instead, its row lies at a revision
that readers have passed. It is then moved to a new one, so that its change is seen by everybody, later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from kine.drivers.base import NewRow
from kine.drivers.sql import gaps, statements
from kine.drivers.sql.failures import Kind, StatementError

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds


class Passed:
    """Ids, of which there may be very many in a run."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.runs: list[range] = []

    def __contains__(self, row_id: object) -> bool:
        return row_id in self.ids or any(row_id in run for run in self.runs)


class Late:
    def __init__(self, database: Database, look: Callable[[], None]) -> None:
        self._database = database
        self._look = look  # there is a new row to be seen
        self.passed = Passed()
        self._waiting: asyncio.Task[None] | None = None
        self._ids: list[int] = []

    def skip(self, ids: range) -> None:
        self.passed.runs.append(ids)

    def give_up(self, ids: range) -> None:
        self.passed.ids.update(ids)
        self._ids += ids
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._wait(), name="late rows")

    async def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    async def _wait(self) -> None:
        while self._ids:
            row_id = self._ids[0]
            try:
                async with self._database.transaction("Fill") as session:
                    filled = await session.fill([row_id])
                if not filled:
                    await self._move(row_id)
            except StatementError as error:
                if error.kind is not Kind.LOCKED:
                    await asyncio.sleep(_RETRY)
            else:
                self._ids.pop(0)

    async def _move(self, row_id: int) -> None:
        async with self._database.transaction("Move") as session:
            rows = await session.run(statements.LATE, (row_id,))
            if not rows:
                return
            name, created, deleted, create_revision, prev_revision, ttl, value = rows[0]
            if gaps.is_filler(name, deleted, prev_revision):
                return
            if await session.run(statements.FOLLOWED, (row_id,)):
                return  # what came after it has been seen, and tells more
            await session.run(statements.DELETE, (row_id,))
            row = NewRow(name, bool(created), bool(deleted), create_revision, prev_revision, ttl, value, 0)
            [moved] = await session.insert([row])
            await session.run(statements.MOVE_EXTRA, (moved, row_id))
            await session.fill([row_id])
        log.warning("the change held back at revision %d came after all: it is now %d", row_id, moved)
        self._look()
