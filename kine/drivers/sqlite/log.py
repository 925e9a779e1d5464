"""The log in an SQLite file.

One thread writes, a few read. The event loop itself runs only one query, whether there are new commits, which
SQLite answers from shared memory in microseconds. Ids are contiguous because every insert holds the file's
write lock, so a reader never sees a gap that could still be filled.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from kine.drivers.base import (
    DriverError,
    LeaseRecord,
    LogTail,
    NewRow,
    NoSpaceError,
    Options,
    Row,
    Size,
    UnavailableError,
    UnknownOutcomeError,
    Write,
)
from kine.drivers.sql import statements
from kine.drivers.sql.statement_timing import report
from kine.drivers.sqlite import open_file, write_transactions
from kine.drivers.sqlite.checkpoints import Checkpoints, Copied
from kine.drivers.sqlite.disk_reserve import DiskReserve
from kine.drivers.sqlite.failures import DamagedError, LockedError, translated
from kine.drivers.sqlite.file_identity import FileIdentity
from kine.drivers.sqlite.inotify import FileChanges
from kine.drivers.wait_for_database import until_open

if TYPE_CHECKING:
    from kine.drivers.sqlite.dsn import Dsn

log = logging.getLogger(__name__)
T = TypeVar("T")

_READERS = 2
_LOAD_BLOCK = 5_000  # rows
_VALUES_BLOCK = 500  # ids in one statement, under SQLite's bound on parameters
_POLL = 0.02  # seconds between polls for other processes' commits; a poll costs about 5 us
_FALLBACK_POLL = 1.0  # seconds between polls while inotify is active
_LOOK_AT_FILES = 0.5  # seconds between checks that the files still exist, while polling for commits

# Writes wait while a step of compaction holds the one write lock, so a step that takes longer is halved. The
# removed rows are all over the table and its indexes: 40 kB of the log for each (`python -m bench soak`).
_COMPACT_SECONDS = 0.02
_LEAST, _MOST = 50, 1 << 16  # revisions a step

_ROW_BYTES = 24 * 1024  # of the pages that a row changes, without those of its value

_COPYING, _CHECKPOINT_PAUSE = 1.0, 0.01  # seconds
_READERS_END = 200  # milliseconds in which most readers end; one that copies the whole database does not

_OPENING_WAIT = 1.0  # seconds for which one attempt at opening waits for another process's lock
_LOCKED_ADVICE = "; stop the other process (`fuser FILE` names it), or name another path in the endpoint"


class SqliteLog:
    """See `kine.drivers.base.Log`."""

    def __init__(self, dsn: Dsn, options: Options) -> None:
        self._dsn = dsn
        self._options = options
        self._writing = ThreadPoolExecutor(1, "sqlite-write")
        self._reading = ThreadPoolExecutor(_READERS, "sqlite-read")
        self._idle: list[sqlite3.Connection] = []  # readers' connections, opened when first needed
        self._writer: sqlite3.Connection | None = None
        self._probe: sqlite3.Connection | None = None
        self._probe_version = -1
        self._probe_head = 0
        self._recorded_version = -1
        self._probe_recorded = 0
        self._presence: FileIdentity | None = None
        self._file_changes: FileChanges | None = None
        self._reserve: DiskReserve | None = None
        self._gone = ""  # why the files must not be written any more
        self._checkpoints = Checkpoints(
            lambda: self._in(self._reading, "Checkpoint", self._read, self._checkpoint),
            lambda: self._in(self._writing, "CheckpointRest", self._write, self._checkpoint),
            lambda: self._reserve is not None and self._reserve.short(),
        )
        self._compact_size = _LEAST * 4  # revisions
        self._compacted = -1  # where this instance's last step ended
        self._closed = False
        self.on_wait: Callable[[str], None] = lambda why: None
        self.recall: Callable[[int], bytes | None] = lambda revision: None

    # ---- opening

    async def open(self) -> None:
        await until_open(
            self._attempt,
            LockedError,
            self._dsn.path,
            _LOCKED_ADVICE,
            on_wait=lambda why: self.on_wait(why),
        )

    async def _attempt(self) -> None:
        await self._in(self._writing, "Open", self._open)

    def _open(self) -> None:
        # Short lock waits, repeated, so that stopping kine does not have to wait for a long one.
        brief = replace(self._dsn, busy_timeout=min(_OPENING_WAIT, self._dsn.busy_timeout))
        open_file.make(brief)
        self._reserve = DiskReserve(brief.path, wanted=brief.reserve)
        try:
            self._connect(brief)
        except sqlite3.Error as error:
            # Even opening needs space: SQLite creates the log and its index.
            if not isinstance(self._translated(error), NoSpaceError) or not self._reserve.give_up():
                raise
            self._connect(brief)
        self._reserve.keep()

    def _connect(self, brief: Dsn) -> None:
        writer = open_file.connect(brief)
        try:
            open_file.keep_temporary_files_beside(brief.path, writer)
            open_file.prepare(brief, writer)
            writer.execute(f"PRAGMA busy_timeout = {int(self._dsn.busy_timeout * 1000)}")
            self._probe = open_file.connect(self._dsn)
            self._probe.execute("PRAGMA busy_timeout = 0")
            self._presence = FileIdentity(brief.path)
            self._file_changes = FileChanges(brief.path, min(_POLL, self._options.poll_interval))
        except BaseException:
            writer.close()
            raise
        self._writer = writer

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        with self._pooled() as connection:
            cursor = await self._in(self._reading, "Load", connection.execute, statements.LOAD, (after,))
            while rows := await self._in(self._reading, "Load", cursor.fetchmany, _LOAD_BLOCK):
                yield [Row._make(row) for row in rows]

    def peek(self) -> int | None:
        probe = self._probe
        if probe is None or self._gone:
            return None
        try:
            # In this order: a commit between the two statements makes the head newer, never older.
            version = probe.execute("PRAGMA data_version").fetchone()[0]
            if version != self._probe_version:
                self._probe_head = write_transactions.newest(probe)
                self._probe_version = version
        except sqlite3.Error:
            return None
        return self._probe_head

    async def newest(self) -> int:
        return await self._in(self._reading, "CurrentRev", self._read, write_transactions.newest)

    async def compact_revision(self) -> int:
        return await self._in(self._reading, "CompactRev", self._read, write_transactions.compact_revision)

    def peek_recorded_compaction(self) -> int | None:
        probe = self._probe
        if probe is None or self._gone:
            return None
        try:
            version = probe.execute("PRAGMA data_version").fetchone()[0]
            if version != self._recorded_version:
                self._probe_recorded = write_transactions.compact_revision(probe)
                self._recorded_version = version
        except sqlite3.Error:
            return None
        return self._probe_recorded

    async def recorded_compaction(self) -> int:
        return await self.compact_revision()

    async def tail(self, after: int, limit: int) -> LogTail:
        return await self._in(self._reading, "AfterAllOldVal", self._read, self._tail, after, limit)

    def _tail(self, connection: sqlite3.Connection, after: int, limit: int) -> LogTail:
        connection.execute("BEGIN")  # one snapshot for the three queries
        try:
            rows = [Row._make(row) for row in connection.execute(statements.TAIL, (after, limit))]
            head = rows[-1].id if len(rows) == limit else max(write_transactions.newest(connection), after)
            return LogTail(rows, head, write_transactions.compact_revision(connection))
        finally:
            connection.execute("COMMIT")

    async def changed(self, after: int) -> None:
        changes = self._file_changes
        assert changes is not None
        pause = min(_FALLBACK_POLL if changes.active else _POLL, self._options.poll_interval)
        looked = -_LOOK_AT_FILES
        while True:
            if changes.active or monotonic() - looked >= _LOOK_AT_FILES:
                looked = monotonic()
                self._look_at_files()
                if self._gone:
                    raise UnavailableError(self._gone)
            head = self.peek()
            if head is not None and head > after:
                return
            await changes.wait(pause)

    def _look_at_files(self) -> None:
        gone = "" if self._presence is None else self._presence.lost()
        if gone != self._gone:
            if gone:
                log.error("%s", gone)
            else:
                log.warning("the files of %s are there again", self._dsn.path)
            self._gone = gone

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
        """Lends a connection for one query, or for a whole load: then there is one more than threads."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = open_file.connect(self._dsn)
        try:
            yield connection
        finally:
            if self._closed or len(self._idle) >= _READERS:
                connection.close()
            else:
                self._idle.append(connection)

    # ---- writing

    async def append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        rows = [row for write in writes for row in write.rows]
        known: dict[int, bytes] = {}
        recall = self.recall
        for row in rows:
            if row.prev_revision and (value := recall(row.prev_revision)) is not None:
                known[row.prev_revision] = value
        call = (writes, rows, known, head)
        outcome: list[Sequence[int] | None]
        if all(row.deleted for row in rows):
            outcome = await self._in(self._writing, "Insert", self._write, self._delete, *call)
        else:
            outcome = await self._in(
                self._writing, "Insert", self._add, rows, write_transactions.append, *call
            )
        if self._dsn.wal_autocheckpoint:
            self._checkpoints.appended(rows)
        return outcome

    def _delete(
        self,
        writer: sqlite3.Connection,
        writes: Sequence[Write],
        rows: list[NewRow],
        known: dict[int, bytes],
        head: int,
    ) -> list[Sequence[int] | None]:
        # On a full disk, deleting large values must not take their size again.
        return write_transactions.append(writer, writes, rows, known, head, brief=self._in_need())

    def check(self, row: NewRow) -> None:
        """Accepts any row: SQLite itself refuses one that is too large."""

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        while True:
            # Compaction fills the log faster than checkpoints copy it: it waits, so that writers need not.
            await self._checkpoints.finish()
            size = self._compact_size
            try:
                step: tuple[int, int, float] = await self._in(
                    self._writing, "Compact", self._write, self._compact, revision, size, versions
                )
            except NoSpaceError:
                if size <= _LEAST:
                    raise
                self._compact_size = _LEAST  # a smaller step needs less of the log
                continue
            recorded, removed, seconds = step
            if seconds:  # else another process has compacted as far already
                self._compacted = recorded
            if self._dsn.wal_autocheckpoint:
                self._checkpoints.removed(removed)
            self._compact_size = max(_LEAST, size // 2) if seconds > _COMPACT_SECONDS else 2 * size
            if recorded >= revision:
                self._compact_size = min(self._compact_size, _MOST)
                return recorded
            versions = ()

    def _compact(
        self, writer: sqlite3.Connection, revision: int, size: int, versions: Sequence[tuple[int, int]]
    ) -> tuple[int, int, float]:
        if not self._in_need() or self._dsn.secure_delete:
            return write_transactions.compact(writer, revision, size, versions, self._compacted)
        # Some builds of SQLite overwrite freed pages with zeros, which go to the log first.
        with open_file.without_zeros(writer):
            return write_transactions.compact(writer, revision, size, versions, self._compacted)

    async def advance(self, revision: int) -> None:
        await self._in(self._writing, "Advance", self._write, write_transactions.advance, revision)
        await self.compact(revision, [])

    async def refused(self, rows: Iterable[Row]) -> dict[bytes, str]:
        """Refuses none: the file holds any key, and larger values than a request can have."""
        return {}

    async def place(self, rows: Sequence[Row]) -> None:
        await self._in(self._writing, "Place", self._add, rows, write_transactions.place, rows)

    async def compacted(self) -> None:
        if self._dsn.compact_wal_checkpoint:
            await self._in(self._reading, "PostCompact", self._read, self._checkpoint)

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> Copied:
        return Copied._make(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())

    def _add(self, rows: Sequence[NewRow | Row], work: Callable[..., T], *args: object) -> T:
        """Runs a write that adds `rows`, and so must not use the reserve."""
        assert self._writer is not None
        assert self._reserve is not None
        size = sum(_ROW_BYTES + len(row.value or b"") for row in rows)
        if not self._reserve.admits(self._writer, size, self._copy_log):
            raise NoSpaceError(f"no space left for {self._dsn.path}: what is left is for deletions")
        return self._write(work, *args, adds=True)

    def _write(self, work: Callable[..., T], *args: object, adds: bool = False) -> T:
        assert self._writer is not None
        assert self._reserve is not None
        try:
            done = work(self._writer, *args)
        except sqlite3.Error as error:
            if not isinstance(self._translated(error), NoSpaceError):
                raise
            done = self._make_room(self._writer, work, args, adds=adds)
        # After the write, and before it is answered: 5 us in this thread.
        self._look_at_files()
        if self._gone:
            raise UnknownOutcomeError(self._gone)  # the files may be put back
        return done

    def _make_room(
        self, writer: sqlite3.Connection, work: Callable[..., T], args: tuple[object, ...], *, adds: bool
    ) -> T:
        """Retries work that failed for lack of space: after a checkpoint, then with the reserve given up."""
        assert self._reserve is not None
        self._copy_log()
        try:
            return work(writer, *args)
        except sqlite3.Error as error:
            if adds or not isinstance(self._translated(error), NoSpaceError) or not self._reserve.give_up():
                raise
        self._copy_log()
        return work(writer, *args)

    def _in_need(self) -> bool:
        """Whether the reserve is given up. If so, checkpoints the log, so that it does not use that space."""
        if self._reserve is None or self._reserve.size != 0:
            return False
        self._copy_log()
        return True

    def _copy_log(self) -> bool:
        """Checkpoints the log. True if all of it is copied; the next commit then restarts it, unless read."""
        assert self._writer is not None
        if not self._dsn.wal_autocheckpoint:
            return False
        writer, until = self._writer, time.monotonic() + _COPYING
        with suppress(sqlite3.Error):
            writer.execute(f"PRAGMA busy_timeout = {_READERS_END}")
            try:
                while True:
                    # Waits for readers of the log; readers that start meanwhile read the file.
                    done = Copied._make(writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone())
                    if not done.busy or time.monotonic() > until:
                        return done.copied == done.pages >= 0
                    time.sleep(_CHECKPOINT_PAUSE)  # another thread runs a checkpoint, or a reader takes long
            finally:
                writer.execute(f"PRAGMA busy_timeout = {int(self._dsn.busy_timeout * 1000)}")
        return False

    # ---- leases

    async def leases(self) -> list[LeaseRecord]:
        rows = await self._in(self._reading, "Leases", self._read, _all, statements.LEASES, ())
        return [LeaseRecord._make(row) for row in rows]

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        rows = await self._in(self._reading, "Lease", self._read, _all, statements.LEASE, (lease_id,))
        return LeaseRecord._make(rows[0]) if rows else None

    async def grant(self, lease_id: int, ttl: int, renewals: int = 0) -> bool:
        row = (lease_id, ttl, renewals)
        return await self._in(self._writing, "LeaseGrant", self._add, [], write_transactions.grant, row)

    async def renew(self, lease_ids: Sequence[int], renewals: int = 0) -> None:
        rows = [(renewals, renewals, lease_id) for lease_id in lease_ids]
        await self._in(
            self._writing, "LeaseRenew", self._write, write_transactions.each, statements.RENEW, rows
        )

    async def expire(self, lease_id: int, renewals: int) -> bool:
        return await self._in(
            self._writing, "LeaseExpire", self._write, write_transactions.expire, lease_id, renewals
        )

    async def forget(self, lease_id: int) -> None:
        rows = [(lease_id,)]
        await self._in(
            self._writing, "LeaseForget", self._write, write_transactions.each, statements.FORGET, rows
        )

    # ---- keeping house

    async def size(self) -> Size:
        [(_, in_use)] = await self._in(self._reading, "GetSize", self._read, _all, open_file.SIZE, ())
        return Size(open_file.disk_size(self._dsn.path), in_use, open_file.log_size(self._dsn.path))

    async def defragment(self) -> None:
        assert self._writer is not None
        await self._in(self._writing, "Vacuum", open_file.vacuum, self._dsn, self._writer)

    def folder(self) -> str:
        return os.path.dirname(self._dsn.path) or "."

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
        self._look_at_files()
        if self._gone:
            # Leak the connections: the last one to close deletes the log by name, which is another's by now.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
            return
        for connection in (*self._idle, self._probe, self._writer):
            if connection is not None:
                connection.close()  # the last one to close checkpoints the log into the file
        self._idle.clear()
        if self._file_changes is not None:
            self._file_changes.close()
        self._probe = self._writer = None

    # ---- running work in threads

    async def _in(self, pool: ThreadPoolExecutor, name: str, work: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise UnavailableError("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, self._timed, name, work, args)

    def _timed(self, name: str, work: Callable[..., T], args: tuple[object, ...]) -> T:
        if self._gone:
            raise UnavailableError(self._gone)
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
        failure = translated(error, self._dsn.path)
        if isinstance(failure, DamagedError):
            log.error("%s", failure)
        return failure


def _all(
    connection: sqlite3.Connection, statement: str, parameters: tuple[object, ...]
) -> list[tuple[int, ...]]:
    return connection.execute(statement, parameters).fetchall()
