"""The log in a database server that several instances share: what is the same on PostgreSQL and MySQL.

Ours take turns at writing, by a lock that ends with the transaction, so among them ids are committed in
order. Go kine takes no turns: what it commits beside us is judged by the unique index and by the ids.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from kine.drivers.base import (
    Lease,
    Row,
    Size,
    Tail,
    UnavailableError,
    Write,
)
from kine.drivers.sql import gaps, statements
from kine.drivers.sql.append import Appender, clipped
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.late import Late
from kine.drivers.sql.polling import Polling
from kine.drivers.waiting import until_open
from kine.observe.metrics import gap_fills

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

log = logging.getLogger(__name__)
T = TypeVar("T")

_LOAD_BLOCK = 5_000  # rows
_VALUES_BLOCK = 500  # ids in one statement
_ADVICE = "; check that it runs, and the endpoint's host, port, user and password"
_PATIENCE = 0.003  # seconds a missing id is waited for before it is filled: Go kine's inserts take less
_AGES = 30 * 24 * 3600  # seconds, after which an instance's row in kine_writer is taken to be left over
_ATTEMPTS = 5  # at a transaction that others' keep rolling back
_DOOMED_BLOCK = 500


class SqlLog:
    """See `kine.drivers.base.Log`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._id = secrets.randbits(62) + 1
        self._polling = Polling(database, self._newest)
        self._appender = Appender(database, self._id, self._register)
        self._late = Late(database, self._polling.look)
        self._missing: range | None = None
        self._missing_since = 0.0
        self._closed = False

    # ---- opening

    async def open(self) -> None:
        await until_open(self._open, StatementError, "the database", _ADVICE)

    async def _open(self) -> None:
        await self._database.open()
        await self._register()
        await self._one_compact_row()

    async def _register(self) -> None:
        now = int(time.time())
        async with self._database.transaction("Register") as session:
            await session.run(statements.UNREGISTER, (self._id, now - _AGES))
            await session.run(statements.REGISTER, (self._id, now))

    async def _one_compact_row(self) -> None:
        """Old releases of Go kine could leave two rows of this name."""
        async with self._database.transaction("CompactRows") as session:
            rows = await session.run(statements.COMPACT_ROWS)
            rows.sort(key=lambda row: row[1])
            for row_id, _ in rows[:-1]:
                await session.run(statements.DELETE, (row_id,))

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        while True:
            rows, compacted = await self._after(statements.LOAD_COMPACTED, after, _LOAD_BLOCK)
            if not rows:
                return
            if ready := await self._final(rows, after, compacted):
                yield ready
                after = ready[-1].id

    async def tail(self, after: int, limit: int) -> Tail:
        while True:
            rows, compacted = await self._after(statements.TAIL_COMPACTED, after, limit)
            if not rows:
                return Tail([], after, await self.compact_revision())
            if ready := await self._final(rows, after, compacted):
                return Tail(ready, ready[-1].id, compacted)

    async def _after(self, statement: str, after: int, limit: int) -> tuple[list[Row], int]:
        found = await self._query("AfterAllOldVal", statement, (after, limit))
        rows = [
            Row(
                row[0], row[1], row[2] != 0, row[3] != 0, row[4], row[5], row[6], row[7], row[8], row[9],
                row[10] != 0,
            )
            for row in found
        ]  # fmt: skip
        return rows, (found[0][11] or 0) if found else 0

    async def _final(self, rows: list[Row], after: int, compacted: int) -> list[Row]:
        """As many of the rows as nothing can come between any more; with none, waits and fills a gap."""
        ids = [row.id for row in rows]
        passed = self._late.passed
        count = gaps.unbroken(ids, after, compacted, passed)
        if count:
            return rows if count == len(rows) else rows[:count]
        await self._close_gap(gaps.missing(ids, after, compacted, passed))
        return []

    async def _close_gap(self, missing: range) -> None:
        now = asyncio.get_running_loop().time()
        if self._missing is None or self._missing.start != missing.start:
            self._missing, self._missing_since = missing, now
        if now - self._missing_since < _PATIENCE:
            await asyncio.sleep(_PATIENCE)
            return
        if len(missing) > gaps.LARGEST:
            log.error("revisions %d to %d do not exist: skipping them", missing[0], missing[-1])
            gap_fills.inc("skipped")
            self._late.skip(missing)
            return
        try:
            filled = await self._retried(self._fill, missing)
        except StatementError as error:
            gap_fills.inc("failed")
            if error.kind is not Kind.LOCKED:
                raise error.translated() from error
            log.error(
                "a transaction has held back revision %d for %.0f s: going on without it;"
                " should it be committed yet, its change gets a later revision",
                missing[0],
                self._database.lock_timeout,
            )
            gap_fills.inc("skipped")
            self._late.give_up(missing)
        else:
            if filled:
                log.debug("filled the gap of revisions %d to %d", missing[0], missing[-1])
                gap_fills.inc("filled")

    async def _fill(self, ids: range) -> set[int]:
        async with self._database.transaction("Fill") as session:
            return await session.fill(ids)

    async def compact_revision(self) -> int:
        rows = await self._query("CompactRev", statements.COMPACT_REVISION)
        return rows[0][0] or 0

    def peek(self) -> int | None:
        return None

    def newest(self) -> Awaitable[int]:
        asked = self._database.newest()
        if isinstance(asked, asyncio.Future):
            asked.add_done_callback(self._saw)
            return asked
        return self._newest_later(asked)

    def _saw(self, asked: asyncio.Future[int]) -> None:
        if not asked.cancelled() and asked.exception() is None:
            self._polling.saw(asked.result())

    async def _newest_later(self, asked: Awaitable[int]) -> int:
        head = await self._answered(asked)
        self._polling.saw(head)
        return head

    async def _newest(self) -> int:
        return await self._answered(self._database.newest())

    async def changed(self, after: int) -> None:
        await self._answered(self._polling.changed(after))

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for start in range(0, len(ids), _VALUES_BLOCK):
            found |= await self._answered(self._database.values(ids[start : start + _VALUES_BLOCK]))
        return found

    # ---- writing

    async def append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        if self._closed:
            raise UnavailableError("the database is closed")
        return await self._appender.append(writes, head)

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        return await self._answered(self._retried(self._compact, revision, versions))

    async def _compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        async with self._database.transaction("Compact") as session:
            # Locking this row, whoever compacts waits for whoever does: ours and Go kine alike.
            rows = await session.run(statements.COMPACT_ROWS)
            recorded = max((row[1] for row in rows), default=0)
            if recorded >= revision:
                return int(recorded)
            doomed = sorted(row[0] for row in await session.run(statements.DOOMED, (recorded, revision) * 2))
            for start in range(0, len(doomed), _DOOMED_BLOCK):
                await session.remove(doomed[start : start + _DOOMED_BLOCK])
            for row_id, version in versions:
                if not await session.changed(statements.VERSION_RECORDED, (version, row_id)):
                    await session.run(statements.VERSION_RECORD, (version, row_id))
            await session.run(statements.SET_COMPACT_REVISION, (revision,))
            return revision

    async def compacted(self) -> None:
        """Both kinds of server reclaim space by themselves."""

    async def advance(self, revision: int) -> None:
        await self._answered(self._retried(self._advance, revision))
        await self.compact(revision, [])

    async def _advance(self, revision: int) -> None:
        async with self._database.transaction("Advance") as session:
            await session.fill([revision])
            await session.allot_after(revision)

    async def place(self, rows: Sequence[Row]) -> None:
        await self._answered(self._retried(self._place, rows))

    async def _place(self, rows: Sequence[Row]) -> None:
        async with self._database.transaction("Place") as session:
            ids = [row.id for row in rows]
            await session.run(statements.ungap(len(ids)), ids)
            await session.place(ids, [clipped(statements.as_new(row)) for row in rows])
            for row in rows:
                if row.lease or row.version:
                    await session.run(statements.INSERT_EXTRA, (row.id, row.lease, row.version))

    # ---- leases

    async def leases(self) -> list[Lease]:
        return [Lease._make(row) for row in await self._query("Leases", statements.LEASES)]

    async def lease(self, lease_id: int) -> Lease | None:
        rows = await self._query("Lease", statements.LEASE, (lease_id,))
        return Lease._make(rows[0]) if rows else None

    async def grant(self, lease_id: int, ttl: int) -> bool:
        try:
            await self._retried(self._each, "LeaseGrant", statements.GRANT, [(lease_id, ttl)])
        except StatementError as error:
            if error.kind is Kind.CONFLICT:
                return False
            raise (error.undecided() if error.kind is Kind.LOST else error.translated()) from error
        return True

    async def renew(self, lease_ids: Sequence[int]) -> None:
        rows = [(lease_id,) for lease_id in lease_ids]
        await self._answered(self._retried(self._each, "LeaseRenew", statements.RENEW, rows))

    async def expire(self, lease_id: int, renewals: int) -> bool:
        return await self._answered(self._retried(self._expire, lease_id, renewals))

    async def _expire(self, lease_id: int, renewals: int) -> bool:
        async with self._database.transaction("LeaseExpire") as session:
            await session.run(statements.EXPIRE, (lease_id, renewals))
            found = await session.run(statements.LEASE, (lease_id,))
            return not found or found[0][2] < 0

    async def forget(self, lease_id: int) -> None:
        await self._answered(self._retried(self._each, "LeaseForget", statements.FORGET, [(lease_id,)]))

    async def _each(self, name: str, statement: str, rows: Sequence[tuple[int, ...]]) -> None:
        async with self._database.transaction(name) as session:
            for row in rows:
                await session.run(statement, row)

    # ---- keeping house

    async def size(self) -> Size:
        return await self._answered(self._database.size())

    async def defragment(self) -> None:
        await self._answered(self._database.defragment())

    def snapshot(self) -> AsyncIterator[bytes] | None:
        return None

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._late.close()
        try:
            async with asyncio.timeout(1.0), self._database.transaction("Unregister") as session:
                await session.run(statements.UNREGISTER, (self._id, 0))
        except (StatementError, TimeoutError):
            pass  # left over for another instance to remove, in a month
        await self._database.close()

    # ---- asking

    async def _query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        return await self._answered(self._database.query(name, statement, parameters))

    async def _answered(self, work: Awaitable[T]) -> T:
        if self._closed:
            raise UnavailableError("the database is closed")
        try:
            return await work
        except StatementError as error:
            raise error.translated() from error

    async def _retried(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """What is rolled back for others' sake is done again; and what may be done twice, when lost."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await work(*args)
            except StatementError as error:
                if error.kind is not Kind.AGAIN:
                    raise
                await asyncio.sleep(0.01 * attempt)
        return await work(*args)
