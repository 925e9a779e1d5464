"""The log in a database server that several instances share: the part common to PostgreSQL and MySQL.

Instances take turns at writing, by a lock that ends with the transaction, so among them ids are committed in
order. Go kine does not take that lock: its concurrent commits are detected by the unique index and the ids.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kine.drivers.base import (
    DriverError,
    LeaseRecord,
    LogTail,
    NewRow,
    NoSpaceError,
    Options,
    OvertakenError,
    Row,
    Size,
    UnavailableError,
    Write,
)
from kine.drivers.sql import id_gaps, statements
from kine.drivers.sql.append import Appender, clipped
from kine.drivers.sql.commit_polling import CommitPolling
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.int32_ids import USED_UP
from kine.drivers.sql.late_commits import LateCommits
from kine.drivers.wait_for_database import until_open
from kine.observe.metrics import gap_fills

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

log = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK_EVERY = 1.0  # seconds, at least, between looks at the tables
_LOAD_BLOCK = 5_000  # rows
_VALUES_BLOCK = 500  # ids in one statement
_ADVICE = "; check that it runs, and the endpoint's host and port"
_PATIENCE = 0.003  # seconds a missing id is waited for before it is filled: Go kine's inserts take less
_AGES = 30 * 24 * 3600  # seconds, after which an instance's row in kine_writer counts as left over
_PERSISTENCE = 10.0  # seconds of retries for a transaction that other transactions keep rolling back
_VERSION_BLOCK = 64  # versions in two statements, not two for each: a compaction holds locks meanwhile
_DOOMED_BLOCK = 500


class SqlLog:
    """See `kine.drivers.base.Log`."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._id = secrets.randbits(62) + 1
        self._patience = options.patience
        self._polling = CommitPolling(database, self._newest, options.poll_interval)
        self._late = LateCommits(database, self._polling.look)
        self._appender = Appender(database, self._id, self._register, self._late.look_into)
        self._missing: range | None = None
        self._missing_since = 0.0
        self._compacted = -1  # where this instance's last compaction ended
        self._unsafe = ""  # why no write is accepted
        self._look_again = 0.0  # event-loop time
        self._closed = False
        self.on_wait: Callable[[str], None] = lambda why: None
        database.on_wait = lambda why: self.on_wait(why)

    # ---- opening

    async def open(self) -> None:
        await until_open(
            self._open,
            StatementError,
            "the database",
            _ADVICE,
            patience=self._patience,
            on_wait=lambda why: self.on_wait(why),
        )

    async def _open(self) -> None:
        try:
            await self._database.open()
        except StatementError as error:
            if error.permanent:
                raise DriverError(str(error)) from None
            raise
        await self._register()
        await self._one_compact_row()
        [(compacted,)] = await self._database.query("CompactRev", statements.COMPACT_REVISION)
        behind = await self._database.advance_allocator(compacted or 0)
        if behind is not None:
            log.warning(
                "the database was about to give id %d, and has rows above it: advanced it past them"
                " (a restore or a cut-over leaves it behind)",
                behind,
            )

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

    def exhausted(self, revision: int) -> str:
        return USED_UP if revision == self._database.max_storable_id else self._unsafe

    # ---- changes of the tables under a running server

    async def _look_at_tables(self) -> None:
        """Checks the tables: altering them under a running server fails no write. Raises StatementError."""
        now = asyncio.get_running_loop().time()
        if now < self._look_again:
            return
        before, self._unsafe = self._unsafe, await self._database.unsafe()
        self._look_again = now + _LOOK_EVERY
        if self._unsafe and self._unsafe != before:
            log.error("no write is taken any more: %s", self._unsafe)
        elif before and not self._unsafe:
            log.warning("writes are taken again: the tables are as they should be")

    async def _refuse_unsafe(self) -> None:
        if self._unsafe:
            await self._answered(self._retried(self._look_at_tables, twice=True))
        if self._unsafe:
            raise UnavailableError(self._unsafe)

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        compacted: int | None = None
        while True:
            # Load in one snapshot, up to a revision that is missing in it; once that is filled, continue in
            # another. If others compact between the two, keys would appear whose deletions are gone.
            rest: list[Row] = []
            try:
                async with self._database.snapshot() as session:
                    while not rest:
                        rows, now = _rows(await session.run(statements.LOAD_COMPACTED, (after, _LOAD_BLOCK)))
                        if not rows:
                            return
                        compacted = now if compacted is None else compacted
                        if now != compacted:
                            raise OvertakenError(f"others have compacted from revision {compacted} to {now}")
                        if count := self._settled(rows, after, compacted):
                            yield rows[:count]
                            after = id_gaps.end(rows[count - 1])
                        rest = rows[count:]
            except StatementError as error:
                raise error.translated() from error
            await self._final(rest, after, compacted or 0)

    async def tail(self, after: int, limit: int) -> LogTail:
        while True:
            rows, compacted = await self._after(statements.TAIL_COMPACTED, after, limit)
            if not rows:
                return LogTail([], after, await self.compact_revision())
            if ready := await self._final(rows, after, compacted):
                self._appender.floor = max(self._appender.floor, ready[-1].id)
                return LogTail(ready, id_gaps.end(ready[-1]), compacted)

    async def _after(self, statement: str, after: int, limit: int) -> tuple[list[Row], int]:
        return _rows(await self._query("AfterAllOldVal", statement, (after, limit)))

    def _settled(self, rows: list[Row], after: int, compacted: int) -> int:
        """How many of the rows are settled: no row can be committed before or between them any more."""
        return id_gaps.unbroken(rows, after, compacted, self._late.passed)

    async def _final(self, rows: list[Row], after: int, compacted: int) -> list[Row]:
        """Returns the rows that are settled; if none is, waits and fills a gap."""
        if count := self._settled(rows, after, compacted):
            return rows if count == len(rows) else rows[:count]
        await self._close_gap(id_gaps.missing(rows, after, compacted, self._late.passed))
        return []

    async def _close_gap(self, missing: range) -> None:
        now = asyncio.get_running_loop().time()
        if self._missing is None or self._missing.start != missing.start:
            self._missing, self._missing_since = missing, now
        if now - self._missing_since < _PATIENCE:
            await asyncio.sleep(_PATIENCE)
            return
        fillers = id_gaps.fillers(missing)
        try:
            filled = await self._retried(self._fill, fillers)
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
            for row_id, last in fillers:
                if last and row_id in filled:
                    log.warning(
                        "the database's ids leapt from %d to %d: going on after them",
                        missing[0] - 1,
                        missing[-1] + 1,
                    )
                    self._late.look_into(range(row_id, last + 1))

    async def _fill(self, fillers: Sequence[id_gaps.Filler]) -> set[int]:
        async with self._database.transaction("Fill") as session:
            return await session.fill(fillers)

    async def compact_revision(self) -> int:
        rows = await self._query("CompactRev", statements.COMPACT_REVISION)
        return rows[0][0] or 0

    def peek_recorded_compaction(self) -> int | None:
        return None

    async def recorded_compaction(self) -> int:
        return await self.compact_revision()

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
        await self._refuse_unsafe()
        return await self._appender.append(writes, head)

    def check(self, row: NewRow) -> None:
        self._database.check(row)

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        await self._answered(self._retried(self._look_at_tables, twice=True))
        await self._refuse_unsafe()
        try:
            recorded = await self._answered(
                self._retried(self._compact, revision, versions, True, twice=True)
            )
        except NoSpaceError:  # clearing old values writes the rows again first; removing rows does not
            recorded = await self._answered(
                self._retried(self._compact, revision, versions, False, twice=True)
            )
        if recorded == revision:
            self._compacted = revision
        return recorded

    async def _compact(self, revision: int, versions: Sequence[tuple[int, int]], cut: bool) -> int:
        async with self._database.transaction("Compact") as session:
            # This row lock serializes the compactions of all instances, Go kine's included.
            rows = await session.run(statements.COMPACT_ROWS)
            recorded = max((row[1] for row in rows), default=0)
            if recorded >= revision:
                return int(recorded)
            since = recorded if recorded == self._compacted else 0
            bounds = (recorded, revision, since, revision, revision)
            doomed = sorted(row[0] for row in await session.run(statements.DOOMED, bounds))
            for start in range(0, len(doomed), _DOOMED_BLOCK):
                await session.remove(doomed[start : start + _DOOMED_BLOCK])
            if cut:
                await session.run(statements.CLEAR_OLD_VALUES, (recorded, revision))
            for start in range(0, len(versions), _VERSION_BLOCK):
                for statement in statements.version_records(versions[start : start + _VERSION_BLOCK]):
                    await session.changed(statement)
            await session.run(statements.SET_COMPACT_REVISION, (revision,))
            return revision

    async def compacted(self) -> None:
        """Does nothing: both servers reclaim space automatically."""

    async def advance(self, revision: int) -> None:
        await self._answered(self._retried(self._advance, revision))
        await self.compact(revision, [])

    async def _advance(self, revision: int) -> None:
        async with self._database.transaction("Advance") as session:
            await session.fill([id_gaps.Filler(revision)])
            await session.allot_after(revision)

    async def refused(self, rows: Iterable[Row]) -> dict[bytes, str]:
        return await self._answered(self._database.refused(map(statements.as_new, rows)))

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

    async def leases(self) -> list[LeaseRecord]:
        return [LeaseRecord._make(row) for row in await self._query("Leases", statements.LEASES)]

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        rows = await self._query("Lease", statements.LEASE, (lease_id,))
        return LeaseRecord._make(rows[0]) if rows else None

    async def grant(self, lease_id: int, ttl: int, renewals: int = 0) -> bool:
        await self._refuse_unsafe()
        try:
            await self._retried(self._each, "LeaseGrant", statements.GRANT, [(lease_id, ttl, renewals)])
        except StatementError as error:
            if error.kind is Kind.CONFLICT:
                return False
            raise (error.undecided() if error.kind is Kind.LOST else error.translated()) from error
        return True

    async def renew(self, lease_ids: Sequence[int], renewals: int = 0) -> None:
        rows = [(renewals, renewals, lease_id) for lease_id in lease_ids]
        await self._answered(self._retried(self._each, "LeaseRenew", statements.RENEW, rows, twice=True))

    async def expire(self, lease_id: int, renewals: int) -> bool:
        return await self._answered(self._retried(self._expire, lease_id, renewals, twice=True))

    async def _expire(self, lease_id: int, renewals: int) -> bool:
        async with self._database.transaction("LeaseExpire") as session:
            await session.run(statements.EXPIRE, (lease_id, renewals))
            found = await session.run(statements.LEASE, (lease_id,))
            return not found or found[0][2] < 0

    async def forget(self, lease_id: int) -> None:
        rows = [(lease_id,)]
        await self._answered(self._retried(self._each, "LeaseForget", statements.FORGET, rows, twice=True))

    async def _each(self, name: str, statement: str, rows: Sequence[tuple[int, ...]]) -> None:
        async with self._database.transaction(name) as session:
            for row in rows:
                await session.run(statement, row)

    # ---- keeping house

    async def size(self) -> Size:
        await self._answered(self._retried(self._look_at_tables, twice=True))
        return await self._answered(self._database.size())

    async def defragment(self) -> None:
        await self._answered(self._database.defragment())

    def folder(self) -> None:
        """Returns None: the data are on the server."""

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

    # ---- queries

    async def _query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        return await self._answered(self._database.query(name, statement, parameters))

    async def _answered(self, work: Awaitable[T]) -> T:
        if self._closed:
            raise UnavailableError("the database is closed")
        try:
            return await work
        except StatementError as error:
            raise error.translated() from error

    async def _retried(self, work: Callable[..., Awaitable[T]], *args: object, twice: bool = False) -> T:
        """Retries work that the server rolled back for a deadlock or a serialization failure.

        `twice`: also if the connection was lost, as the work may run again after a commit of unknown outcome.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _PERSISTENCE
        pause = 0.01
        while True:
            try:
                return await work(*args)
            except StatementError as error:
                again = error.kind is Kind.AGAIN or (twice and error.kind is Kind.LOST)
                if not again or loop.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 2)


def _rows(found: list[Any]) -> tuple[list[Row], int]:
    """Converts the result of `TAIL_COMPACTED` or `LOAD_COMPACTED` to rows and the compact revision."""
    rows = [
        Row(
            row[0], row[1], bool(row[2]), bool(row[3]), row[4] or 0, row[5] or 0, row[6] or 0, row[7],
            row[8], row[9], row[10] != 0,
        )
        for row in found
    ]  # fmt: skip
    return rows, (found[0][11] or 0) if found else 0
