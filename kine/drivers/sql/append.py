"""Appending a group of writes: mostly one short transaction; a longer one for guarded or multi-row writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from kine.drivers.base import (
    BehindError,
    InvalidKeyError,
    NewRow,
    UnavailableError,
    UnknownOutcomeError,
    Write,
)
from kine.drivers.sql import id_gaps, statements
from kine.drivers.sql.database import Batch, FencedError, WentBackError
from kine.drivers.sql.failures import Kind, StatementError
from kine.observe.metrics import insert_errors

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database, Session

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for learning the outcome of a commit, and for retrying after a rollback
_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_INT32 = (1 << 31) - 1  # the table's lease column; whole TTLs are kept with the lease


class Appender:
    def __init__(
        self,
        database: Database,
        writer: int,
        register: Callable[[], Awaitable[None]],
        leapt: Callable[[range], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._register = register  # creates the row in kine_writer again
        self._leapt = leapt  # called with ids that were passed as never allotted
        self._number = 0
        self.floor = 0  # the highest id seen: no new one may be below, even if that one is lost
        self._full = False  # whether the last write that adds something found no space

    async def append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        """See `kine.drivers.base.Log.append`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        pause = _PAUSE
        rows = [clipped(row) for write in writes for row in write.rows]
        self.floor = max(self.floor, head)
        deletions = all(row.deleted for row in rows)
        while True:
            self._number += 1
            # With a copy of the old values, a deletion needs as much space as those take.
            brief = deletions and self._full
            batch = Batch(rows, self._writer, self._number, head, self.floor, brief)
            try:
                outcome = await self._attempt(writes, batch, head)
                self._full = self._full and deletions
                return outcome
            except FencedError:
                # This instance's row was removed, as it was a month old. A new row does not show the outcome
                # of earlier groups, but those have been settled.
                failure = StatementError(Kind.REFUSED, "", "this instance's row in kine_writer is missing")
                try:
                    await self._register()
                except StatementError as error:
                    failure = error
            except StatementError as error:
                failure = error
                if error.kind is Kind.LOST:
                    if await self._settle(batch, error, deadline):
                        return await self._landed(writes, batch)
                elif error.kind is Kind.CONFLICT:  # another filled the id as a gap, or Go kine came first
                    insert_errors.inc("true")
                elif error.kind is Kind.REUSED:
                    await self._advance_allocator()
                    if await self._database.newest() < head:
                        raise WentBackError from None
                elif error.kind is Kind.FULL and deletions and not brief:
                    self._full = True
                    continue
                elif error.kind is not Kind.AGAIN:
                    self._full = self._full or error.kind is Kind.FULL
                    insert_errors.inc("false")
                    raise error.translated() from error
            except WentBackError:
                await self._advance_allocator()
                raise
            if loop.time() + pause > deadline:
                raise UnavailableError(f"the write was not carried out: {failure}") from failure
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _advance_allocator(self) -> None:
        try:
            behind = await self._database.advance_allocator(self.floor)
        except StatementError as error:
            raise error.translated() from error
        if behind is not None:
            log.warning(
                "the database was about to give id %d, which others have had already: advanced it past them"
                " (a restore or a cut-over leaves it behind)",
                behind,
            )

    async def _attempt(self, writes: Sequence[Write], batch: Batch, head: int) -> list[Sequence[int] | None]:
        try:
            if any(write.guarded or len(write.rows) > 1 for write in writes):
                return await self._carefully(writes, batch, head)
            ids = await self._database.append(batch)
        except StatementError as error:
            if error.kind is Kind.CONFLICT:
                await self._explain(batch.rows)
            raise
        if not any(ids):  # else some rows are committed and must be reported; the others are decided again
            await self._explain(batch.rows)
        return [None if row_id is None else (row_id,) for row_id in ids]

    async def _explain(self, left_out: Iterable[NewRow]) -> None:
        """Raises the reason why rows conflict, if a retry would conflict for ever.

        Some databases treat two different keys as equal. Or the id was taken, not the row's place in the
        unique index.
        """
        names: set[bytes] = set()
        for row in left_out:
            taken = await self._database.query("Taken", statements.TAKEN, (row.name, row.prev_revision))
            folded = row.name.rstrip(b" ").lower()
            if folded in names or (taken and taken[0][0] != row.name):
                raise InvalidKeyError(
                    "this key differs from another one only in upper and lower case or in spaces at its"
                    " end, which the database's table does not tell apart"
                )
            names.add(folded)
            if not taken and await self._has_place(row):
                raise StatementError(Kind.REUSED, "", "the database gave an id that was taken")

    async def _has_place(self, row: NewRow) -> bool:
        query = self._database.query
        if row.created:
            return not await query("Taken", statements.SINCE, (row.name, row.prev_revision))
        return not row.prev_revision or bool(
            await query("Taken", statements.EXISTS, (row.prev_revision, row.name))
        )

    # ---- writes of several rows, or guarded by the state before them

    async def _carefully(
        self, writes: Sequence[Write], batch: Batch, head: int
    ) -> list[Sequence[int] | None]:
        guarded = any(write.guarded for write in writes)
        try:
            async with self._database.transaction("Insert", batch=batch) as session:
                if session.newest < head:
                    raise WentBackError  # the state that the writes rest on was lost in a failover
                if session.newest == head:
                    return await self._unopposed(session, writes, batch.rows, head)
                if guarded:
                    raise BehindError
                return await self._one_by_one(session, writes)
        except StatementError as error:
            # No instance of this kine wrote, as it held the lock: so Go kine just did.
            if error.kind is not Kind.CONFLICT:
                raise
            if guarded:
                await self._explain(batch.rows)
                raise BehindError from None
            raise

    async def _unopposed(
        self, session: Session, writes: Sequence[Write], rows: Sequence[NewRow], head: int
    ) -> list[Sequence[int] | None]:
        ids = await session.insert(rows)
        outcome: list[Sequence[int] | None] = []
        rest = iter(ids)
        last = 0
        for write in writes:
            its = list(islice(rest, len(write.rows)))
            outcome.append(its)
            if write.guarded:
                last = its[-1]
        # Go kine does not take the write lock: any id before a guarded row that is neither this group's nor
        # vacant is a row that the decision has not seen.
        runs = id_gaps.between([row_id for row_id in ids if row_id <= last], head)
        fillers = [filler for run in runs for filler in id_gaps.fillers(run)]
        if fillers and await session.fill(fillers) != {row_id for row_id, _ in fillers}:
            raise BehindError
        for row_id, end in fillers:
            if end:
                if await session.run(statements.WITHIN, (row_id, end, 1)):
                    raise BehindError
                self._leapt(range(row_id, end + 1))
        return outcome

    async def _one_by_one(self, session: Session, writes: Sequence[Write]) -> list[Sequence[int] | None]:
        """Inserts each write in a savepoint, as others have appended: the unique index shows conflicts."""
        outcome: list[Sequence[int] | None] = []
        for write in writes:
            if not await _possible(session, write):
                outcome.append(None)
                continue
            await session.run("SAVEPOINT one")
            try:
                outcome.append(await session.insert(write.rows))
            except StatementError as error:
                if error.kind is not Kind.CONFLICT:
                    raise
                await session.run("ROLLBACK TO SAVEPOINT one")
                outcome.append(None)
            await session.run("RELEASE SAVEPOINT one")
        return outcome

    # ---- when the connection was lost in a commit

    async def _settle(self, batch: Batch, lost: StatementError, deadline: float) -> bool:
        """Whether the batch was committed; if not, it never will be. Raises UnknownOutcomeError."""
        loop = asyncio.get_running_loop()
        pause = _PAUSE
        while True:
            try:
                async with self._database.transaction("Settle") as session:
                    rows = await session.run(statements.CLAIMED, (batch.writer,))
                    if not rows:
                        raise lost.undecided()
                    if rows[0][0] >= batch.number:
                        return True
                    # If its statements still reach the server later, they find the batch claimed.
                    await session.run(statements.FENCE, (batch.number, batch.writer))
                return False
            except StatementError as error:
                if loop.time() + pause > deadline:
                    raise lost.undecided() from error
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _landed(self, writes: Sequence[Write], batch: Batch) -> list[Sequence[int] | None]:
        log.info("the connection was lost in a commit, which had taken place")
        outcome: list[Sequence[int] | None] = []
        try:
            [(_, head)] = await self._database.query(
                "Settle", statements.CLAIMED.removesuffix(" FOR UPDATE"), (batch.writer,)
            )
            compacted = None
            for write in writes:
                ids = []
                for row in write.rows:
                    found = await self._database.query(
                        "Settle", statements.LANDED, (row.name, row.prev_revision, head)
                    )
                    ours = bool(found) and _same(found[0], row)
                    # A creation with a later id may be another's, after this one was deleted and compacted.
                    if compacted is None and not (ours and found[0][0] <= head + len(batch.rows)):
                        [(compacted,)] = await self._database.query("Settle", statements.COMPACT_REVISION)
                        if (compacted or 0) > head:
                            # It may have been committed, replaced and compacted: treated as a conflict, it
                            # would be written a second time.
                            raise UnknownOutcomeError("the write took place or not: compaction went over it")
                    if ours:
                        ids.append(found[0][0])
                outcome.append(ids if len(ids) == len(write.rows) else None)
        except StatementError as error:
            raise UnknownOutcomeError(
                f"the write took place, but its revision could not be read: {error}"
            ) from error
        return outcome


async def _possible(session: Session, write: Write) -> bool:
    """Whether the rows that a write replaces exist and are not replaced yet, and the keys it creates do not.

    The unique index does not show rows that were compacted meanwhile. Checked before inserting, as a failed
    insert uses up an id, and so leaves a gap.
    """
    for row in write.rows:
        if row.created:
            if await session.run(statements.SINCE, (row.name, row.prev_revision)):
                return False
        elif row.prev_revision and not await session.run(statements.EXISTS, (row.prev_revision, row.name)):
            return False
        if await session.run(statements.TAKEN, (row.name, row.prev_revision)):
            return False
    return True


def _same(found: tuple[int, int, int, bytes | None], row: NewRow) -> bool:
    _, created, deleted, value = found
    return bool(created) == row.created and bool(deleted) == row.deleted and value == row.value


def clipped(row: NewRow) -> NewRow:
    """The row with its TTL limited to the range of the column."""
    return row._replace(ttl=_INT32) if row.ttl > _INT32 else row
