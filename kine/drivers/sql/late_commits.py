"""Late commits: rows committed at a revision that readers no longer wait for.

Readers wait for a transaction that holds a revision up to the lock timeout, and then pass the revision.
Mostly the transaction is rolled back in the end. If it commits instead, its row is moved to a new revision,
so that every reader sees the change, only later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import NewRow
from kine.drivers.sql import id_gaps, statements
from kine.drivers.sql.failures import Kind, StatementError

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds
_LOOKS = (1.0, 10.0, 60.0)  # seconds between looks into a leap: no transaction should hold an id within
_FOUND = 100  # rows at once


class LateCommits:
    def __init__(self, database: Database, look: Callable[[], None]) -> None:
        self._database = database
        self._look = look  # called when there is a new row to read
        self.passed = id_gaps.PassedGaps()
        self._waiting: asyncio.Task[None] | None = None
        self._ids: list[int] = []
        self._looking = BackgroundTasks()

    def give_up(self, run: range) -> None:
        """Passes ids that could not be filled, as a transaction holds one of them."""
        self.passed.add(run)
        for row_id, last in id_gaps.fillers(run):
            if last:
                self.look_into(range(row_id, last + 1))
            else:
                self._ids.append(row_id)
        if self._waiting is None or self._waiting.done():
            self._waiting = self._looking.start(self._wait(), "late rows")

    def look_into(self, leap: range) -> None:
        """Watches ids that were passed as never allotted: a row committed there after all is moved."""
        self._looking.start(self._look_into(leap), "leap")

    async def close(self) -> None:
        await self._looking.cancel()

    async def _look_into(self, leap: range) -> None:
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            found = True
            while found:
                try:
                    rows = await self._database.query(
                        "Leap", statements.WITHIN, (leap.start, leap.stop - 1, _FOUND)
                    )
                    for (row_id,) in rows:
                        await self._move(row_id)
                    found = len(rows) == _FOUND
                except StatementError:
                    await asyncio.sleep(_RETRY)

    async def _wait(self) -> None:
        while self._ids:
            row_id = self._ids[0]
            try:
                async with self._database.transaction("Fill") as session:
                    filled = await session.fill([id_gaps.Filler(row_id)])
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
            create_revision, prev_revision, ttl = create_revision or 0, prev_revision or 0, ttl or 0
            if id_gaps.is_filler(name, deleted, prev_revision):
                return
            if await session.run(statements.FOLLOWED, (row_id,)):
                return  # a later change of the key has been read already
            await session.run(statements.DELETE, (row_id,))
            row = NewRow(name, bool(created), bool(deleted), create_revision, prev_revision, ttl, value, 0)
            [moved] = await session.insert([row])
            await session.run(statements.MOVE_EXTRA, (moved, row_id))
            await session.fill([id_gaps.Filler(row_id)])
        log.warning("the change held back at revision %d came after all: it is now %d", row_id, moved)
        self._look()
