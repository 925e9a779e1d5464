"""The `Database` of the SQL log, on PostgreSQL: reads, appends, transactions and notifications."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from kine.drivers.base import DriverError, InvalidKeyError, NewRow, Options, Size
from kine.drivers.postgres import statements
from kine.drivers.postgres.batch_insert import insertion, text
from kine.drivers.postgres.binary_parameters import TEXT, BinaryForm
from kine.drivers.postgres.connection import REPLICA, Deadline, PooledConnection, connect
from kine.drivers.postgres.failures import FORGOTTEN, NO_PRIVILEGE, OLD_PLAN, TURNED, translated
from kine.drivers.postgres.listen_notify import NotificationListener
from kine.drivers.postgres.newest_id import NewestIdQuery, newest_of
from kine.drivers.postgres.pipeline import Answer, Pipeline, Question, Statement
from kine.drivers.postgres.privileges import identifier
from kine.drivers.postgres.reconnecting_pipeline import ReconnectingPipeline
from kine.drivers.postgres.safety_settings import check_tables
from kine.drivers.postgres.setup import ServerInfo, prepare
from kine.drivers.sql import id_gaps
from kine.drivers.sql import statements as neutral
from kine.drivers.sql.database import Batch, FencedError, idle_limit
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.pool import ConnectionSlots, Generation, Pool, fit
from kine.drivers.sql.statement_timing import timed

if TYPE_CHECKING:
    from kine.drivers.postgres.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

_INSERT = "InsertReturning"  # the name in the metrics, as in Go kine since v0.17
_GRACE = 5.0  # seconds a statement may take beyond the longest wait for a lock
_READ_LIMIT = 30.0  # seconds for a block of rows, which may be large
_SNAPSHOT_IDLE = 120.0  # seconds between two blocks of a snapshot, which holds no lock
_SURE_NAME = 2000  # bytes that always fit in the index, even incompressible; its limit is about 2,700
_AT_ONCE = 2.0  # seconds; sooner, old plans on new connections mean a pooler, not another schema change
_TRIED = 128  # names in one trial statement
_COMMIT: Question = (Statement(b"", b"COMMIT"), ())


class _TrialError(Exception):
    """Rolls the transaction of a trial back."""


class PostgresDatabase:
    """Implements `kine.drivers.sql.database.Database`."""

    def __init__(self, dsn: Dsn, options: Options, credentials: Provider | None = None) -> None:
        self._dsn = dsn
        self._options = options
        self._credentials = credentials
        self.on_wait: Callable[[str], None] = lambda why: None
        if credentials is not None:
            credentials.report_to(lambda why: self.on_wait(why))
        self.lock_timeout = dsn.lock_timeout
        self._lock_timeout = f"{int(dsn.lock_timeout * 1000)}ms"
        # A statement may wait twice, for the writers' lock and then for a row: `lock_timeout` each.
        self._limit = dsn.lock_timeout * 2 + _GRACE if dsn.lock_timeout else 0.0
        self._prepare = dsn.prepare
        self._server = ServerInfo()
        origin = secrets.token_hex(8)  # distinguishes this instance's notifications from others'
        self._turn_parameters = {
            "lock_timeout": self._lock_timeout,
            "idle_timeout": f"{int(idle_limit(dsn.lock_timeout) * 1000)}ms",
            "origin": origin,
        }
        self._turn: Question = (Statement(b"", b""), ())
        self._newest: Question = (Statement(b"", b""), ())
        self._generation = Generation()
        self._suspected: tuple[int, float] | None = None  # the last generation with old plans, and when
        lifetime = options.connection_max_lifetime
        self._writing = ReconnectingPipeline(self._connect, self._generation, lifetime)
        self._reading: ReconnectingPipeline | None = (
            None  # with a limit of 1 or 2 connections, reads use the pool
        )
        if (most := options.max_open_connections) == 0 or most > 2:
            self._reading = ReconnectingPipeline(self._connect, self._generation, lifetime)
        if most:
            lines = 1 if self._reading is None else 2
            options = replace(options, max_open_connections=max(1, most - lines))
        self._pool = Pool(PooledConnection, options)
        self._free = ConnectionSlots(options.max_open_connections, dsn.lock_timeout)
        self._listener = NotificationListener(self._wire, self.announce, origin)

    @property
    def max_storable_id(self) -> int:
        return self._server.max_storable_id

    # ---- opening

    async def open(self) -> None:
        server = self._server = await prepare(self._dsn, self._credentials)
        turn = BinaryForm(b"kine_turn", self._turn_statement, dict.fromkeys(self._turn_parameters, TEXT))
        self._turn = turn.question({name: told.encode() for name, told in self._turn_parameters.items()})
        newest = statements.NEWEST if server.recovers else neutral.NEWEST
        self._newest = (Statement(b"kine_newest", newest.encode()), ())
        self._listener.start()

    async def _connect(self) -> AsyncConnection[Any]:
        return await connect(self._dsn, self._dsn.database, self._credentials, prepare=self._prepare)

    async def close(self) -> None:
        await self._listener.close()
        self._writing.close()
        if self._reading is not None:
            self._reading.close()
        self._pool.close()
        if self._credentials is not None:
            await self._credentials.close()

    # ---- one statement

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return await self._read(name, statements.numbered(statement), _bound(parameters))

    def newest(self) -> Awaitable[int]:
        line, question = self._reading, self._newest
        if line is None:
            return self._newest_of_pool()
        wire = line.ready(question[0], prepare=self._prepare)
        if wire is None:
            return self._newest_of(line)
        asking = NewestIdQuery(self._options, partial(self._newest_failed, line, line.generation))
        return asking.put(wire, question, _READ_LIMIT, prepared=self._prepare)

    async def _newest_of_pool(self) -> int:
        [(newest, *recovering)] = await self._read("CurrentRev", self._newest[0].text.decode(), ())
        if any(recovering):
            raise self._replica()
        return newest or 0

    async def _newest_of(self, line: ReconnectingPipeline) -> int:
        for last in (False, True):
            try:
                [answer] = await self._ask("CurrentRev", line, [self._newest], _READ_LIMIT)
            except StatementError as error:
                if last or error.kind not in (Kind.LOST, Kind.AGAIN):
                    raise
            else:
                newest, recovering = newest_of(answer)
                if recovering:
                    raise self._replica()
                return newest
        raise AssertionError

    async def _newest_failed(
        self, line: ReconnectingPipeline, generation: int, error: psycopg.Error | None
    ) -> int:
        if error is None:
            raise self._replica()
        failure = translated(error)
        self._learn(failure, generation)
        if failure.kind not in (Kind.LOST, Kind.AGAIN):
            raise failure
        return await self._newest_of(line)

    def _replica(self) -> StatementError:
        self._generation.end(self._generation.number)
        return StatementError(Kind.AWAY, "25006", REPLICA)

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        return dict(await self._read("Values", statements.VALUES, (list(ids),)))

    async def refused(self, rows: Iterable[NewRow]) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        doubtful: list[NewRow] = []  # whether a long name fits in the index depends on how it compresses
        for row in rows:
            try:
                text(row.name)
            except InvalidKeyError as error:
                found[row.name] = str(error)
                continue
            if len(row.name) > _SURE_NAME or not row.name.isascii():
                doubtful.append(row._replace(value=None))
        for start in range(0, len(doubtful), _TRIED):
            block = doubtful[start : start + _TRIED]
            if await self._trial(block) is not None:
                for row in block:
                    if (reason := await self._trial([row])) is not None:
                        found[row.name] = reason
        return found

    async def _trial(self, rows: Sequence[NewRow]) -> str | None:
        """Inserts the rows and rolls back. Returns why a name cannot be stored, or None."""
        try:
            async with self.transaction("Trial") as session:
                await session.place([-1 - place for place in range(len(rows))], rows)
                raise _TrialError
        except _TrialError:
            return None
        except StatementError as error:
            if error.kind is Kind.KEY:
                return str(error)
            if error.kind is Kind.CONFLICT:  # the name exists already
                return None
            raise

    async def advance_allocator(self, floor: int) -> int | None:
        sequence = self._server.sequence
        statement = statements.ADVANCE.format(sequence=sequence, quoted=sequence.replace("'", "''"))
        try:
            moved = await self._read("Allocator", statement, (floor,))
        except StatementError as error:
            if error.code != NO_PRIVILEGE:
                raise
            # A user with rights on the table only. Writes work unless the sequence was set back.
            user = identifier(self._dsn.connection.get("user", "..."))
            log.warning(
                "the user may not advance the sequence of ids, which is needed after a restore from a dump;"
                " let its owner run GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO %s;",
                sequence,
                user,
            )
            return None
        return int(moved[0][1]) if moved else None

    async def unsafe(self) -> str:
        try:
            async with self._checkout("Tables", _READ_LIMIT) as connection:
                await check_tables(connection)
        except DriverError as error:
            return str(error)
        return ""

    async def size(self) -> Size:
        [(allocated,)] = await self._read("GetSize", statements.SIZE, ())
        try:
            [(share,)] = await self._read("GetSize", statements.IN_USE, ())
        except (StatementError, ValueError):
            share = 1.0
        return Size(int(allocated), int(allocated * share))

    async def defragment(self) -> None:
        # Blocks all reads and writes meanwhile, as etcd's does; on its own connection, without a time limit.
        connection = await self._connect()
        try:
            await connection.execute(f"SET lock_timeout = '{self._lock_timeout}'".encode())
            await connection.execute("VACUUM (FULL, ANALYZE) kine", prepare=False)
        except psycopg.Error as error:
            raise translated(error) from error
        finally:
            connection.pgconn.finish()

    async def announce(self, payload: str) -> None:
        async with self._checkout("Notify", self._limit) as connection:
            await connection.execute("SELECT pg_notify(%b, %b)", (statements.CHANNEL, payload))

    async def _read(self, name: str, statement: str, parameters: Sequence[object]) -> list[Any]:
        for last in (False, True):
            try:
                async with self._checkout(name, _READ_LIMIT) as connection:
                    cursor = connection.cursor(binary=True)
                    await cursor.execute(statement, parameters)
                    return [_plain(row) for row in await cursor.fetchall()]
            except StatementError as error:
                # The connection was lost while idle, or a pooler switched it to another server connection.
                if last or error.kind not in (Kind.LOST, Kind.AGAIN):
                    raise
        raise AssertionError

    # ---- appending

    async def append(self, batch: Batch) -> list[int | None]:
        questions = [self._turn, insertion(batch)]
        # Without BEGIN, one pipeline is one transaction, but of the server's default isolation level.
        if self._server.explicit:
            questions = [(Statement(b"", self._server.begin.encode()), ()), *questions, _COMMIT]
        answers = await self._ask(_INSERT, self._writing, questions, self._limit)
        answer = answers[2 if self._server.explicit else 1]
        ids = {
            answer.get_value(place, 1): int.from_bytes(answer.get_value(place, 0) or b"", "big")
            for place in range(answer.ntuples)
        }
        if not ids:
            await self._check_claim(batch)
        return [ids.get(row.name) for row in batch.rows]

    def check(self, row: NewRow) -> None:
        text(row.name)

    @property
    def _turn_statement(self) -> str:
        return statements.TURN if self._server.advisory_locks else statements.TURN_BY_ROW

    async def _check_claim(self, batch: Batch) -> None:
        rows = await self._read(_INSERT, statements.CLAIMED, (batch.writer,))
        if not rows or rows[0][0] != batch.number:
            raise FencedError

    # ---- transactions

    @asynccontextmanager
    async def transaction(self, name: str, *, batch: Batch | None = None) -> AsyncIterator[PostgresSession]:
        limit = max(self._limit, self._options.compact_timeout)
        async with self._checkout(_INSERT if name == "Insert" else name, limit) as connection:
            session = PostgresSession(connection, self._server.sequence)
            async with connection.pipeline():
                await connection.execute(self._server.begin.encode())
                if batch is not None or name == "Move":
                    await connection.execute(self._turn_statement, self._turn_parameters)
                else:
                    await connection.execute(statements.BOUNDS, self._turn_parameters)
                if batch is not None:
                    cursor = await connection.execute(
                        statements.CLAIM, (batch.number, batch.writer, batch.number)
                    )
            try:
                if batch is not None:
                    claimed = await cursor.fetchone()
                    if claimed is None:
                        raise FencedError
                    session.newest, session.floor = claimed[0], batch.floor
                yield session
            except BaseException as error:
                # Errors of the session's methods are translated already; the connection may be closed.
                if not connection.closed and not isinstance(error, asyncio.CancelledError):
                    try:
                        await connection.execute("ROLLBACK")
                    except psycopg.Error:
                        connection.pgconn.finish()
                raise
            await connection.execute("COMMIT")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresSession]:
        async with self._checkout("Load", 0) as connection:
            session = _Snapshot(connection, self._server.sequence)
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", prepare=False)
            try:
                await connection.execute(
                    f"SET LOCAL idle_in_transaction_session_timeout = '{_SNAPSHOT_IDLE:.0f}s'", prepare=False
                )
                yield session
            finally:  # COMMIT in any case: the transaction is read-only
                if not connection.closed and not session.broken:
                    await connection.execute("COMMIT", prepare=False)

    # ---- hints

    async def hint(self) -> None:
        await self._listener.heard()

    @property
    def hinting(self) -> bool:
        return self._listener.works

    # ---- connections

    async def _ask(
        self, name: str, line: ReconnectingPipeline, questions: Sequence[Question], limit: float
    ) -> list[Answer]:
        with self._told(name, line):
            return await line.ask(questions, prepare=self._prepare, limit=limit)

    async def _wire(self) -> Pipeline:
        return await self._writing.wire()

    @asynccontextmanager
    async def _checkout(self, name: str, limit: float) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._free.one():
            held = self._pool.take(self._generation)
            try:
                with self._told(name, held):
                    if not fit(held, self._generation):
                        held.close()
                        generation = self._generation.number
                        held.connection = await self._connect()
                        held.generation = generation
                    assert held.connection is not None
                    with Deadline(held.connection, limit):
                        yield held.connection
            finally:
                if not held.usable:
                    held.close()
                self._pool.give(held)

    @contextmanager
    def _told(self, name: str, asked: ReconnectingPipeline | PooledConnection) -> Iterator[None]:
        """Translates errors to StatementError, and reports the outcome and duration to metrics and log."""
        with timed(name, self._options) as outcome:
            try:
                yield
            except psycopg.Error as error:
                failure = translated(error)
                outcome.code = failure.code
                self._learn(failure, asked.generation)
                raise failure from error
            except StatementError as error:
                outcome.code = error.code
                self._learn(error, asked.generation)
                raise

    def _learn(self, failure: StatementError, generation: int) -> None:
        """Ends the connection's generation if the failure is the connection's fault.

        Sets the failure's kind to AGAIN if another connection may succeed.
        """
        if failure.code in FORGOTTEN and self._prepare:
            log.info("a pooler stands between us and PostgreSQL: preparing statements no more")
            self._prepare = False
            self._generation.end(generation)
        elif failure.kind is Kind.LOST:
            self._generation.end(generation)
        elif failure.kind is Kind.REFUSED or (failure.kind is Kind.UNABLE and failure.code in TURNED):
            if failure.code == OLD_PLAN and self._prepare and self._is_the_next(generation):
                log.info("new connections have old plans, too, as a pooler keeps them: preparing no more")
                self._prepare = False
                self._generation.end(generation)
                failure.kind = Kind.AGAIN
            elif self._generation.suspect(generation):
                self._suspected = (generation, monotonic())
                failure.kind = Kind.AGAIN
            elif failure.code in TURNED:
                self._generation.end(generation)

    def _is_the_next(self, generation: int) -> bool:
        """Whether the generation before had old plans too, less than `_AT_ONCE` ago."""
        if self._suspected is None:
            return False
        before, since = self._suspected
        return generation == before + 1 and monotonic() - since < _AT_ONCE


class PostgresSession:
    """Implements `kine.drivers.sql.database.Session`."""

    def __init__(self, connection: AsyncConnection[Any], sequence: str) -> None:
        self._connection = connection
        self._sequence = sequence
        self.newest = 0
        self.floor = 0

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        try:
            cursor = self._connection.cursor(binary=True)
            await cursor.execute(statements.numbered(statement), _bound(parameters))
            if cursor.description is None:
                return []
            return [_plain(row) for row in await cursor.fetchall()]
        except psycopg.Error as error:
            raise translated(error) from error

    async def changed(self, statement: str, parameters: Sequence[object] = ()) -> int:
        try:
            cursor = await self._connection.execute(statements.numbered(statement), _bound(parameters))
        except psycopg.Error as error:
            raise translated(error) from error
        return cursor.rowcount

    async def insert(self, rows: Sequence[NewRow]) -> list[int]:
        parameters = _columns(rows)
        parameters["more"] = [text(row.name) for row in rows if row.more]
        try:
            cursor = self._connection.cursor(binary=True)
            await cursor.execute(statements.INSERT_ALL, parameters)
            found = {name: row_id for row_id, name in await cursor.fetchall()}
        except psycopg.Error as error:
            raise translated(error) from error
        if found and min(found.values()) <= max(self.newest, self.floor):
            raise StatementError(Kind.REUSED, "", "the sequence of ids is behind the newest row")
        return [found[name] for name in parameters["names"]]

    async def place(self, ids: Sequence[int], rows: Sequence[NewRow]) -> None:
        try:
            await self._connection.execute(statements.PLACE, {**_columns(rows), "ids": list(ids)})
        except psycopg.Error as error:
            raise translated(error) from error

    async def fill(self, fillers: Sequence[id_gaps.Filler]) -> set[int]:
        try:
            cursor = self._connection.cursor(binary=True)
            filled: set[int] = set()
            for suffix in ("", id_gaps.unguessable()):
                if left := [filler for filler in fillers if filler.id not in filled]:
                    ids, last = zip(*left, strict=True)
                    await cursor.execute(statements.FILL, (suffix, list(ids), list(last)))
                    filled.update(row[0] for row in await cursor.fetchall())
            return filled
        except psycopg.Error as error:
            raise translated(error) from error

    async def remove(self, ids: Sequence[int]) -> None:
        for statement in statements.REMOVE:
            await self.run(statement, (list(ids),))

    async def allot_after(self, row_id: int) -> None:
        await self.run("SELECT setval(?::regclass, ?)", (self._sequence.encode(), row_id))


class _Snapshot(PostgresSession):
    """A session whose statements have a time limit each, and the whole transaction none."""

    broken = False  # a statement has started and not ended

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        self.broken = True
        with Deadline(self._connection, _READ_LIMIT):
            rows = await super().run(statement, parameters)
        self.broken = False
        return rows


def _columns(rows: Sequence[NewRow]) -> dict[str, Any]:
    names, created, deleted, create_revisions, prev_revisions, ttls, values, leases, *_ = zip(
        *rows, strict=True
    )
    return {
        "names": [text(name) for name in names],
        "creations": [int(flag) for flag in created],
        "deletions": [int(flag) for flag in deleted],
        "create_revisions": list(create_revisions),
        "prev_revisions": list(prev_revisions),
        "ttls": list(ttls),
        "values": list(values),
        "leases": list(leases),
    }


def _bound(parameters: Sequence[object]) -> Sequence[object]:
    return [text(value) if isinstance(value, bytes) else value for value in parameters]


def _plain(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([value.encode() if isinstance(value, str) else value for value in row])
