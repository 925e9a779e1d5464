"""The log's statements on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from kine.drivers.base import InvalidKeyError, NewRow, Options, Size
from kine.drivers.postgres import statements
from kine.drivers.postgres.connection import Deadline, Held, connect
from kine.drivers.postgres.failures import TURNED, forgets_prepared, translated
from kine.drivers.postgres.listen import Listener
from kine.drivers.postgres.setup import Server, prepare
from kine.drivers.sql.database import Batch, FencedError
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.pool import pool
from kine.drivers.sql.timing import timed

if TYPE_CHECKING:
    from kine.drivers.postgres.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

_GRACE = 5.0  # seconds a statement may take beyond the longest wait for a lock
_READ_LIMIT = 30.0  # for a block of rows, which may be large


class PostgresDatabase:
    """See `kine.drivers.sql.database.Database`."""

    def __init__(self, dsn: Dsn, options: Options, credentials: Provider | None = None) -> None:
        self._dsn = dsn
        self._options = options
        self._credentials = credentials
        self.lock_timeout = dsn.lock_timeout
        self._lock_timeout = f"{int(dsn.lock_timeout * 1000)}ms"
        # A statement may wait for our turn, then for a row: each as long as is allowed.
        self._limit = dsn.lock_timeout * 2 + _GRACE if dsn.lock_timeout else 0.0
        self._prepare = dsn.prepare
        self._server = Server()
        self._origin = secrets.token_hex(8)  # tells our own announcements from others'
        self._pool = pool(Held, options)
        self._generation = 0
        limit = options.max_open_connections
        self._free = asyncio.Semaphore(limit) if limit > 0 else None
        self._listener = Listener(self._connect, self.announce, self._origin)

    # ---- opening

    async def open(self) -> None:
        self._server = await prepare(self._dsn, self._credentials)
        self._listener.start()

    async def _connect(self) -> AsyncConnection[Any]:
        return await connect(self._dsn, self._dsn.database, self._credentials, prepare=self._prepare)

    async def close(self) -> None:
        await self._listener.close()
        self._pool.dispose()

    # ---- one statement

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return await self._read(name, statements.numbered(statement), _bound(parameters))

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        return dict(await self._read("Values", statements.VALUES, (list(ids),)))

    async def size(self) -> Size:
        [(allocated,)] = await self._read("GetSize", statements.SIZE, ())
        try:
            [(share,)] = await self._read("GetSize", statements.IN_USE, ())
        except (StatementError, ValueError):
            share = 1.0
        return Size(int(allocated), int(allocated * share))

    async def defragment(self) -> None:
        # As etcd's, it keeps everybody out while it lasts; on a connection of its own, with no time limit.
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
                # A connection that was lost while it lay idle, or had been prepared for elsewhere.
                if last or error.kind not in (Kind.LOST, Kind.AGAIN):
                    raise
        raise AssertionError

    # ---- appending

    async def append(self, batch: Batch) -> list[int | None]:
        statement, parameters = _insertion(batch)
        async with self._checkout("Insert", self._limit) as connection:
            # One round trip: what is sent up to the end of the pipeline is one transaction. Only
            # CockroachDB wants that said.
            async with connection.pipeline():
                if self._server.explicit:
                    await connection.execute("BEGIN")
                await connection.execute(self._turn, (self._lock_timeout, self._origin))
                cursor = connection.cursor(binary=True)
                await cursor.execute(statement, parameters)
                if self._server.explicit:
                    await connection.execute("COMMIT")
            rows = await cursor.fetchall()
            if not rows:
                await self._check_claim(connection, batch)
        ids = {name: row_id for row_id, name in rows}
        return [ids.get(name) for name in parameters.get("names") or [parameters["name"]]]

    @property
    def _turn(self) -> str:
        return statements.TURN if self._server.advisory_locks else statements.TURN_BY_ROW

    @staticmethod
    async def _check_claim(connection: AsyncConnection[Any], batch: Batch) -> None:
        cursor = await connection.execute("SELECT batch FROM kine_writer WHERE id = %b", (batch.writer,))
        row = await cursor.fetchone()
        if row is None or row[0] != batch.number:
            raise FencedError

    # ---- transactions

    @asynccontextmanager
    async def transaction(self, name: str, *, batch: Batch | None = None) -> AsyncIterator[PostgresSession]:
        limit = max(self._limit, self._options.compact_timeout)
        async with self._checkout(name, limit) as connection:
            session = PostgresSession(connection)
            async with connection.pipeline():
                await connection.execute("BEGIN")
                if batch is not None or name == "Move":
                    await connection.execute(self._turn, (self._lock_timeout, self._origin))
                else:
                    await connection.execute(statements.BOUNDS, (self._lock_timeout,))
                if batch is not None:
                    cursor = await connection.execute(
                        statements.CLAIM, (batch.number, batch.writer, batch.number)
                    )
            try:
                if batch is not None:
                    claimed = await cursor.fetchone()
                    if claimed is None:
                        raise FencedError
                    session.newest = claimed[0]
                yield session
            except BaseException as error:
                # The session's own errors are translated already; the connection may be gone.
                if not connection.closed and not isinstance(error, asyncio.CancelledError):
                    try:
                        await connection.execute("ROLLBACK")
                    except psycopg.Error:
                        connection.pgconn.finish()
                raise
            await connection.execute("COMMIT")

    # ---- hints

    async def hint(self) -> None:
        await self._listener.heard()

    @property
    def hinting(self) -> bool:
        return self._listener.works

    # ---- connections

    @asynccontextmanager
    async def _checkout(self, name: str, limit: float) -> AsyncIterator[AsyncConnection[Any]]:
        if self._free is not None:
            await self._free.acquire()
        try:
            fairy = self._pool.connect()
            held: Held = fairy.dbapi_connection  # type: ignore[assignment]
            try:
                with timed(name, self._options) as outcome:
                    try:
                        if held.connection is None or held.generation != self._generation or not held.usable:
                            held.close()
                            held.connection = None
                            generation = self._generation
                            held.connection = await self._connect()
                            held.generation = generation
                        with Deadline(held.connection, limit):
                            yield held.connection
                    except psycopg.Error as error:
                        failure = translated(error)
                        outcome.code = failure.code
                        self._learn(error, failure)
                        raise failure from error
                    except StatementError as error:
                        outcome.code = error.code
                        raise
            finally:
                if not held.usable:
                    held.close()
                    held.connection = None
                fairy.close()
        finally:
            if self._free is not None:
                self._free.release()

    def _learn(self, error: psycopg.Error, failure: StatementError) -> None:
        if forgets_prepared(error) and self._prepare:
            log.info("a pooler stands between us and PostgreSQL: preparing statements no more")
            self._prepare = False
            self._generation += 1
        elif failure.code in TURNED or failure.kind is Kind.LOST:
            self._generation += 1  # the pool's other connections have most likely gone with it


class PostgresSession:
    """See `kine.drivers.sql.database.Session`."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self.newest = 0

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
        try:
            cursor = self._connection.cursor(binary=True)
            await cursor.execute(statements.INSERT_ALL, parameters)
            found = {name: row_id for row_id, name in await cursor.fetchall()}
        except psycopg.Error as error:
            raise translated(error) from error
        return [found[name] for name in parameters["names"]]

    async def fill(self, ids: Sequence[int]) -> set[int]:
        try:
            cursor = self._connection.cursor(binary=True)
            await cursor.execute(statements.FILL, (list(ids),))
            return {row[0] for row in await cursor.fetchall()}
        except psycopg.Error as error:
            raise translated(error) from error


def _insertion(batch: Batch) -> tuple[str, dict[str, Any]]:
    rows = batch.rows
    if len(rows) == 1 and not rows[0].lease:
        row = rows[0]
        parameters: dict[str, Any] = {
            "name": text(row.name),
            "created": int(row.created),
            "deleted": int(row.deleted),
            "create_revision": row.create_revision,
            "prev_revision": row.prev_revision,
            "ttl": row.ttl,
            "value": row.value,
        }
        statement = statements.INSERT_ONE
    else:
        parameters = _columns(rows)
        leased = any(row.lease for row in rows)
        statement = statements.INSERT_MANY_LEASED if leased else statements.INSERT_MANY
    parameters["writer"] = batch.writer
    parameters["number"] = batch.number
    return statement, parameters


def _columns(rows: Sequence[NewRow]) -> dict[str, Any]:
    names, created, deleted, create_revisions, prev_revisions, ttls, values, leases = zip(*rows, strict=True)
    return {
        "names": [text(name) for name in names],
        "created": [int(flag) for flag in created],
        "deleted": [int(flag) for flag in deleted],
        "create_revisions": list(create_revisions),
        "prev_revisions": list(prev_revisions),
        "ttls": list(ttls),
        "values": list(values),
        "leases": list(leases),
    }


def text(name: bytes) -> str:
    """Raises InvalidKeyError."""
    if b"\0" in name:
        raise InvalidKeyError("this key has a NUL byte, which PostgreSQL's text cannot hold")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidKeyError("this key is not UTF-8, which is all PostgreSQL's text can hold") from None


def _bound(parameters: Sequence[object]) -> Sequence[object]:
    return [text(value) if isinstance(value, bytes) else value for value in parameters]


def _plain(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([value.encode() if isinstance(value, str) else value for value in row])
