"""The log in an SQLite file.

One thread writes, a few read; the event loop itself asks just one thing, whether anyone has committed,
which SQLite answers from shared memory in microseconds. Ids are contiguous because whoever inserts holds
the file's write lock, so a reader never meets a gap that could still be filled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from kine.drivers.base import (
    DriverError,
    Lease,
    NoSpaceError,
    Options,
    Row,
    Size,
    Tail,
    UnavailableError,
    Write,
)
from kine.drivers.sql import statements
from kine.drivers.sql.timing import report
from kine.drivers.sqlite import insert, opening, writing
from kine.drivers.sqlite.checkpoints import Checkpoints, Copied

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from kine.drivers.sqlite.dsn import Dsn

log = logging.getLogger(__name__)
T = TypeVar("T")

_READERS = 2
_LOAD_BLOCK = 5_000  # rows
_VALUES_BLOCK = 500  # ids in one statement, under SQLite's bound on parameters
_SNAPSHOT_BLOCK = 64 * 1024
_POLL = 0.02  # seconds between looks for other processes' commits; a look costs about 5 us

# Writes wait while a step of compaction holds the one write lock, so a step that takes longer is halved.
# What it removes is all over the table and its indexes: 40 kB of the log a row (`python -m bench soak`).
_COMPACT_SECONDS = 0.02
_LEAST, _MOST = 50, 1 << 16  # revisions a step

_FULL = {sqlite3.SQLITE_FULL}
_IO_ERROR = sqlite3.SQLITE_IOERR


class SqliteLog:
    """See `kine.drivers.base.Log`."""

    def __init__(self, dsn: Dsn, options: Options) -> None:
        self._dsn = dsn
        self._options = options
        self._writing = ThreadPoolExecutor(1, "sqlite-write")
        self._reading = ThreadPoolExecutor(_READERS, "sqlite-read")
        self._engine: Engine | None = None
        self._writer: sqlite3.Connection | None = None
        self._probe: sqlite3.Connection | None = None
        self._probe_version = -1
        self._probe_head = 0
        self._checkpoints = Checkpoints(
            lambda: self._in(self._reading, "Checkpoint", self._read, self._checkpoint),
            lambda: self._in(self._writing, "CheckpointRest", self._write, self._checkpoint),
        )
        self._compact_size = _LEAST * 4  # revisions
        self._closed = False
        self.recall: Callable[[int], bytes | None] = lambda revision: None

    # ---- opening

    async def open(self) -> None:
        await self._in(self._writing, "Open", self._open)

    def _open(self) -> None:
        dsn = self._dsn
        opening.make(dsn)
        self._engine = create_engine(
            "sqlite+pysqlite://",
            creator=lambda: opening.connect(dsn),
            poolclass=QueuePool,
            pool_size=_READERS,
            max_overflow=1,
            pool_reset_on_return=None,
        )
        self._writer = opening.connect(dsn)
        opening.prepare(dsn, self._writer, self._engine)
        self._probe = opening.connect(dsn)
        self._probe.execute("PRAGMA busy_timeout = 0")

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        with self._pooled() as connection:
            cursor = await self._in(self._reading, "Load", connection.execute, statements.LOAD, (after,))
            while rows := await self._in(self._reading, "Load", cursor.fetchmany, _LOAD_BLOCK):
                yield [Row._make(row) for row in rows]

    def peek(self) -> int | None:
        probe = self._probe
        if probe is None:
            return None
        try:
            # In this order: a commit between the two statements makes the head newer, never older.
            version = probe.execute("PRAGMA data_version").fetchone()[0]
            if version != self._probe_version:
                row = probe.execute(insert.HEAD).fetchone()
                self._probe_head = row[0] if row else 0
                self._probe_version = version
        except sqlite3.Error:
            return None
        return self._probe_head

    async def newest(self) -> int:
        return await self._in(self._reading, "CurrentRev", self._read, writing.newest)

    async def compact_revision(self) -> int:
        return await self._in(self._reading, "CompactRev", self._read, writing.compact_revision)

    async def tail(self, after: int, limit: int) -> Tail:
        return await self._in(self._reading, "AfterAllOldVal", self._read, self._tail, after, limit)

    def _tail(self, connection: sqlite3.Connection, after: int, limit: int) -> Tail:
        connection.execute("BEGIN")  # one snapshot for the three
        try:
            rows = [Row._make(row) for row in connection.execute(statements.TAIL, (after, limit))]
            head = rows[-1].id if len(rows) == limit else max(writing.newest(connection), after)
            return Tail(rows, head, writing.compact_revision(connection))
        finally:
            connection.execute("COMMIT")

    async def changed(self, after: int) -> None:
        while True:
            head = self.peek()
            if head is not None and head > after:
                return
            await asyncio.sleep(_POLL)

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        return await self._in(self._reading, "Values", self._read, self._values, ids)

    @staticmethod
    def _values(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for start in range(0, len(ids), _VALUES_BLOCK):
            block = ids[start : start + _VALUES_BLOCK]
            marks = ",".join("?" * len(block))
            statement = f"SELECT id, coalesce(value, x'') FROM kine WHERE id IN ({marks})"  # noqa: S608 - marks
            found.update(connection.execute(statement, block))
        return found

    def _read(self, work: Callable[..., T], *args: object) -> T:
        with self._pooled() as connection:
            return work(connection, *args)

    @contextmanager
    def _pooled(self) -> Iterator[sqlite3.Connection]:
        assert self._engine is not None
        fairy = self._engine.raw_connection()
        try:
            yield cast("sqlite3.Connection", fairy.dbapi_connection)
        finally:
            fairy.close()

    # ---- writing

    async def append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        rows = [row for write in writes for row in write.rows]
        known: dict[int, bytes] = {}
        recall = self.recall
        for row in rows:
            if row.prev_revision and (value := recall(row.prev_revision)) is not None:
                known[row.prev_revision] = value
        outcome: list[Sequence[int] | None] = await self._in(
            self._writing, "Insert", self._write, writing.append, writes, rows, known, head
        )
        if self._dsn.wal_autocheckpoint:
            self._checkpoints.appended(rows)
        return outcome

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        while True:
            # Compaction fills the log faster than it is copied: it waits, so that the writers need not.
            await self._checkpoints.finish()
            size = self._compact_size
            step: tuple[int, int, float] = await self._in(
                self._writing, "Compact", self._write, writing.compact, revision, size, versions
            )
            recorded, removed, seconds = step
            if self._dsn.wal_autocheckpoint:
                self._checkpoints.removed(removed)
            self._compact_size = max(_LEAST, size // 2) if seconds > _COMPACT_SECONDS else 2 * size
            if recorded >= revision:
                self._compact_size = min(self._compact_size, _MOST)
                return recorded
            versions = ()

    async def advance(self, revision: int) -> None:
        await self._in(self._writing, "Advance", self._write, writing.advance, revision)
        await self.compact(revision, [])

    async def place(self, rows: Sequence[Row]) -> None:
        await self._in(self._writing, "Place", self._write, writing.place, rows)

    async def compacted(self) -> None:
        if self._dsn.compact_wal_checkpoint:
            await self._in(self._reading, "PostCompact", self._read, self._checkpoint)

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> Copied:
        return Copied._make(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())

    def _write(self, work: Callable[..., T], *args: object) -> T:
        assert self._writer is not None
        return work(self._writer, *args)

    # ---- leases

    async def leases(self) -> list[Lease]:
        rows = await self._in(self._reading, "Leases", self._read, _all, statements.LEASES, ())
        return [Lease._make(row) for row in rows]

    async def lease(self, lease_id: int) -> Lease | None:
        rows = await self._in(self._reading, "Lease", self._read, _all, statements.LEASE, (lease_id,))
        return Lease._make(rows[0]) if rows else None

    async def grant(self, lease_id: int, ttl: int) -> bool:
        return await self._in(self._writing, "LeaseGrant", self._write, writing.grant, lease_id, ttl)

    async def renew(self, lease_ids: Sequence[int]) -> None:
        await self._in(self._writing, "LeaseRenew", self._write, writing.each, statements.RENEW, lease_ids)

    async def expire(self, lease_id: int, renewals: int) -> bool:
        return await self._in(self._writing, "LeaseExpire", self._write, writing.expire, lease_id, renewals)

    async def forget(self, lease_id: int) -> None:
        await self._in(self._writing, "LeaseForget", self._write, writing.each, statements.FORGET, [lease_id])

    # ---- keeping house

    async def size(self) -> Size:
        rows = await self._in(self._reading, "GetSize", self._read, _all, opening.SIZE, ())
        return Size._make(rows[0])

    async def defragment(self) -> None:
        assert self._writer is not None
        await self._in(self._writing, "Vacuum", self._writer.execute, "VACUUM")

    def snapshot(self) -> AsyncIterator[bytes]:
        return self._snapshot()

    async def _snapshot(self) -> AsyncIterator[bytes]:
        folder = os.path.dirname(self._dsn.path) or "."
        with tempfile.TemporaryDirectory(prefix=".kine-snapshot-", dir=folder) as copy:
            path = os.path.join(copy, "snapshot.db")
            await self._in(self._reading, "Snapshot", self._read, _all, "VACUUM INTO ?", (path,))
            with open(path, "rb") as file:  # noqa: ASYNC230 - just written, in the page cache
                while block := file.read(_SNAPSHOT_BLOCK):
                    yield block

    async def close(self) -> None:
        if self._closed:
            return
        await self._checkpoints.finish()
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._close)
        self._writing.shutdown(wait=True)
        self._reading.shutdown(wait=True)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        for connection in (self._probe, self._writer):
            if connection is not None:
                connection.close()  # the last one to close checkpoints the log into the file
        self._probe = self._writer = None

    # ---- running work in threads

    async def _in(self, pool: ThreadPoolExecutor, name: str, work: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise UnavailableError("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, self._timed, name, work, args)

    def _timed(self, name: str, work: Callable[..., T], args: tuple[object, ...]) -> T:
        start = time.perf_counter()
        code = ""
        try:
            return work(*args)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", type(error).__name__)
            raise self._translated(error) from error
        finally:
            report(name, code, time.perf_counter() - start, self._options)

    def _translated(self, error: sqlite3.Error) -> DriverError:
        code = getattr(error, "sqlite_errorcode", 0) or 0
        if code in _FULL or (code & 0xFF == _IO_ERROR and self._disk_full()):
            return NoSpaceError(f"no space left for {self._dsn.path}")
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            log.error(
                "%s is damaged: %s; stop the server and restore it from a backup", self._dsn.path, error
            )
        return UnavailableError(f"SQLite: {error}")

    def _disk_full(self) -> bool:
        disk = os.statvfs(os.path.dirname(self._dsn.path) or ".")
        return disk.f_bavail * disk.f_frsize < 1 << 20


def _all(
    connection: sqlite3.Connection, statement: str, parameters: tuple[object, ...]
) -> list[tuple[int, ...]]:
    return connection.execute(statement, parameters).fetchall()
