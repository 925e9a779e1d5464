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

from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import QueuePool

from kine.drivers.base import (
    BehindError,
    DriverError,
    Lease,
    NewRow,
    NoSpaceError,
    Options,
    Row,
    Size,
    Tail,
    UnavailableError,
    Write,
)
from kine.drivers.sql import schema, statements
from kine.drivers.sql.timing import report
from kine.drivers.sqlite.check import check_file

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
_VACUUM_SHARE = 0.05  # of the file must be free pages before the start-up VACUUM is worth its time
_MAINTENANCE_TIMEOUT = 2.0  # seconds to wait for another process before leaving it for another time

# AUTOINCREMENT's own counter, unlike max(id), never goes back when the newest rows are compacted away.
_HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'kine'"
# Names are bound as bytes and stored as TEXT, as Go kine does: any bytes, compared as bytes.
_INSERT = (
    "INSERT INTO kine"
    " (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    " VALUES (?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, (SELECT value FROM kine WHERE id = ?))"
)
_RECORD_VERSION = (
    "INSERT INTO kine_extra (id, lease, version) SELECT id, 0, ? FROM kine WHERE id = ?"
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version"
)
_SIZE = (
    "SELECT page_count * page_size, (page_count - freelist_count) * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
)

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
        self._closed = False

    # ---- opening

    async def open(self) -> None:
        await self._in(self._writing, "Open", self._open)

    def _open(self) -> None:
        dsn = self._dsn
        folder = os.path.dirname(dsn.path)
        if folder and not os.path.isdir(folder):
            os.makedirs(folder, mode=0o700)
        check_file(dsn.path, whole=dsn.startup_vacuum)
        if not os.path.exists(dsn.path):
            if not dsn.create:
                raise DriverError(
                    f"{dsn.path} does not exist, and mode=rw in the endpoint forbids creating it"
                )
            # The file holds every Secret of a cluster: nobody else's to read.
            os.close(os.open(dsn.path, os.O_CREAT | os.O_WRONLY, 0o600))
        self._engine = create_engine(
            "sqlite+pysqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=_READERS,
            max_overflow=1,
            pool_reset_on_return=None,
        )
        self._writer = self._connect()
        self._prepare(self._writer, self._engine)
        self._probe = self._connect()
        self._probe.execute("PRAGMA busy_timeout = 0")

    def _connect(self) -> sqlite3.Connection:
        dsn = self._dsn
        connection = sqlite3.connect(
            dsn.path,
            timeout=dsn.busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        connection.text_factory = bytes
        connection.execute(f"PRAGMA journal_mode = {dsn.journal_mode}")
        connection.execute(f"PRAGMA synchronous = {dsn.synchronous}")
        if not dsn.wal_autocheckpoint:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        if dsn.cache_size is not None:
            connection.execute(f"PRAGMA cache_size = {dsn.cache_size}")
        return connection

    def _prepare(self, writer: sqlite3.Connection, engine: Engine) -> None:
        with engine.connect() as connection:
            # The pool's connections give text as bytes, which SQLAlchemy's inspector does not expect.
            raw = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            raw.text_factory = str
            tables = set(inspect(connection).get_table_names())
            schema.metadata.create_all(connection, schema.EVERYWHERE)
            connection.commit()
        engine.dispose()  # that connection's statements would hold up the checkpoint below
        if "key_value" in tables and not writer.execute(statements.ANY_ROW).fetchone():
            moved = writer.execute(statements.MIGRATE).rowcount
            log.info("moved %d keys from the table key_value of an old release", moved)
        if self._dsn.compact_wal_checkpoint:
            with self._brief(writer):
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if self._dsn.startup_vacuum:
            self._vacuum_at_start(writer)

    def _vacuum_at_start(self, writer: sqlite3.Connection) -> None:
        allocated, in_use = writer.execute(_SIZE).fetchone()
        if allocated - in_use < allocated * _VACUUM_SHARE:
            return
        log.info("reclaiming %d free bytes of %d (VACUUM)", allocated - in_use, allocated)
        try:
            with self._brief(writer):
                writer.execute("VACUUM")
        except sqlite3.OperationalError as error:
            log.warning("the start-up VACUUM was left out: %s", error)

    @contextmanager
    def _brief(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Waits for other processes only for a moment: maintenance can be done at the next start."""
        connection.execute(f"PRAGMA busy_timeout = {int(_MAINTENANCE_TIMEOUT * 1000)}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self._dsn.busy_timeout * 1000)}")

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
                row = probe.execute(_HEAD).fetchone()
                self._probe_head = row[0] if row else 0
                self._probe_version = version
        except sqlite3.Error:
            return None
        return self._probe_head

    async def newest(self) -> int:
        return await self._in(self._reading, "CurrentRev", self._read, self._newest)

    @staticmethod
    def _newest(connection: sqlite3.Connection) -> int:
        row = connection.execute(_HEAD).fetchone()
        return row[0] if row else 0

    async def compact_revision(self) -> int:
        return await self._in(self._reading, "CompactRev", self._read, self._compact_revision)

    @staticmethod
    def _compact_revision(connection: sqlite3.Connection) -> int:
        return connection.execute(statements.COMPACT_REVISION).fetchone()[0] or 0

    async def tail(self, after: int, limit: int) -> Tail:
        return await self._in(self._reading, "AfterAllOldVal", self._read, self._tail, after, limit)

    def _tail(self, connection: sqlite3.Connection, after: int, limit: int) -> Tail:
        connection.execute("BEGIN")  # one snapshot for the three
        try:
            rows = [Row._make(row) for row in connection.execute(statements.TAIL, (after, limit))]
            head = rows[-1].id if len(rows) == limit else max(self._newest(connection), after)
            return Tail(rows, head, self._compact_revision(connection))
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
        return await self._in(self._writing, "Insert", self._append, writes, head)

    def _append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        with self._transaction() as writer:
            newest = self._newest(writer)
            if newest == head:
                # Nobody else has written: the caller's index was current, so nothing can conflict.
                outcome: list[Sequence[int] | None] = []
                inserts = []
                leased = []
                row_id = head
                for write in writes:
                    first = row_id + 1
                    for row in write.rows:
                        row_id += 1
                        inserts.append(_parameters(row_id, row))
                        if row.lease:
                            leased.append((row_id, row.lease))
                    outcome.append(range(first, row_id + 1))
                writer.executemany(_INSERT, inserts)
                if leased:
                    writer.executemany(statements.INSERT_EXTRA, leased)
                return outcome
            if any(write.guarded for write in writes):
                raise BehindError
            return self._append_behind(writer, writes, newest)

    def _append_behind(
        self, writer: sqlite3.Connection, writes: Sequence[Write], newest: int
    ) -> list[Sequence[int] | None]:
        """Others have appended: let the unique index judge each write, as it does for Go kine."""
        outcome: list[Sequence[int] | None] = []
        for write in writes:
            writer.execute("SAVEPOINT one")
            ids = range(newest + 1, newest + 1 + len(write.rows))
            try:
                for row_id, row in zip(ids, write.rows, strict=True):
                    # A row that was deleted and compacted meanwhile leaves no trace in the unique index.
                    replaced = row.prev_revision and not row.created
                    if replaced and not writer.execute(statements.EXISTS, (row.prev_revision,)).fetchone():
                        raise sqlite3.IntegrityError
                    writer.execute(_INSERT, _parameters(row_id, row))
                    if row.lease:
                        writer.execute(statements.INSERT_EXTRA, (row_id, row.lease))
            except sqlite3.IntegrityError:
                writer.execute("ROLLBACK TO one")
                outcome.append(None)
            else:
                newest = ids[-1]
                outcome.append(ids)
            writer.execute("RELEASE one")
        return outcome

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        return await self._in(self._writing, "Compact", self._compact, revision, versions)

    def _compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        with self._transaction() as writer:
            recorded = self._compact_revision(writer)
            if recorded >= revision:
                return recorded
            bounds = (recorded, revision, recorded, revision)
            writer.execute(statements.COMPACT_EXTRA, bounds)
            writer.execute(statements.COMPACT, bounds)
            writer.executemany(_RECORD_VERSION, [(version, row_id) for row_id, version in versions])
            writer.execute(statements.SET_COMPACT_REVISION, (revision,))
            return revision

    async def compacted(self) -> None:
        if self._dsn.compact_wal_checkpoint:
            await self._in(self._reading, "PostCompact", self._read, self._checkpoint)

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        writer = self._writer
        assert writer is not None
        writer.execute("BEGIN IMMEDIATE")
        try:
            yield writer
            writer.execute("COMMIT")
        except BaseException:
            # A failed COMMIT leaves the transaction open, some errors (disk full) have closed it already.
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise

    # ---- leases

    async def leases(self) -> list[Lease]:
        rows = await self._in(self._reading, "Leases", self._read, _all, statements.LEASES, ())
        return [Lease._make(row) for row in rows]

    async def lease(self, lease_id: int) -> Lease | None:
        rows = await self._in(self._reading, "Lease", self._read, _all, statements.LEASE, (lease_id,))
        return Lease._make(rows[0]) if rows else None

    async def grant(self, lease_id: int, ttl: int) -> bool:
        return await self._in(self._writing, "LeaseGrant", self._grant, lease_id, ttl)

    def _grant(self, lease_id: int, ttl: int) -> bool:
        try:
            with self._transaction() as writer:
                writer.execute(statements.GRANT, (lease_id, ttl))
        except sqlite3.IntegrityError:
            return False
        return True

    async def renew(self, lease_ids: Sequence[int]) -> None:
        await self._in(self._writing, "LeaseRenew", self._each, statements.RENEW, lease_ids)

    async def forget(self, lease_id: int) -> None:
        await self._in(self._writing, "LeaseForget", self._each, statements.FORGET, [lease_id])

    def _each(self, statement: str, lease_ids: Sequence[int]) -> None:
        with self._transaction() as writer:
            writer.executemany(statement, [(lease_id,) for lease_id in lease_ids])

    # ---- keeping house

    async def size(self) -> Size:
        rows = await self._in(self._reading, "GetSize", self._read, _all, _SIZE, ())
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


def _parameters(row_id: int, row: NewRow) -> tuple[object, ...]:
    return (
        row_id,
        row.name,
        row.created,
        row.deleted,
        row.create_revision,
        row.prev_revision,
        row.ttl,
        row.value,
        row.prev_revision,
    )


def _all(
    connection: sqlite3.Connection, statement: str, parameters: tuple[object, ...]
) -> list[tuple[int, ...]]:
    return connection.execute(statement, parameters).fetchall()
