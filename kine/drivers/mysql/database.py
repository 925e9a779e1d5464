"""The log's statements on MySQL and MariaDB, put by a few threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pymysql

from kine.drivers.base import BehindError, DriverError, NewRow, Options, Size
from kine.drivers.mysql.connection import REPLICA, Connection, blob, connect, drop, name, run, written
from kine.drivers.mysql.failures import TURNED, translated
from kine.drivers.mysql.setup import Server, prepare
from kine.drivers.sql import gaps, statements
from kine.drivers.sql.database import Batch, FencedError
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.pool import Free, Generation, fit, pool, take
from kine.drivers.sql.timing import timed
from kine.identity.base import IdentityError

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 8
_GRACE = 5.0  # seconds an answer may take beyond the longest wait for a lock
_DENIED = "1045"
_PACKET_MARGIN = 16 * 1024

# Waits for its turn; only later statements see what was committed meanwhile.
_TURN = b"BEGIN; SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE; "
_INSERT = b"INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) VALUES "
_PLACE = _INSERT.replace(b"(name", b"(id, name")
# The old value comes after: selected within the insert, it would make MySQL reserve ids it does not use.
_OLD_VALUES = (
    b"; UPDATE kine AS k JOIN kine AS p ON p.id = k.prev_revision SET k.old_value = p.value"
    b" WHERE k.id >= LAST_INSERT_ID() AND k.id < LAST_INSERT_ID() + %d AND k.prev_revision != 0"
)
_LEASES = b"; INSERT INTO kine_extra (id, lease, version) VALUES "
# In order and so many: else it reads a small table from end to end, and locks every row on its way.
_REMOVE = (
    b"DELETE FROM kine_extra WHERE id IN (%b) ORDER BY id LIMIT %d",
    b"DELETE FROM kine WHERE id IN (%b) ORDER BY id LIMIT %d",
)
_FILL = (
    "INSERT IGNORE INTO kine"
    " (id, name, created, deleted, create_revision, prev_revision, lease) VALUES (%d, '%s', 0, 1, 0, 0, 0)"
)
# Along with it whether this server was made a replica under our connection.
_NEWEST = b"SELECT max(id), @@global.read_only, @@global.innodb_read_only FROM kine"
_SIZE = (
    "SELECT CAST(sum(data_length + index_length + data_free) AS UNSIGNED),"
    " CAST(sum(data_length + index_length) AS UNSIGNED)"
    " FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'kine'"
)


class MysqlDatabase:
    """See `kine.drivers.sql.database.Database`."""

    hinting = False

    def __init__(self, dsn: Dsn, options: Options, credentials: Provider | None = None) -> None:
        self._dsn = dsn
        self._options = options
        self._credentials = credentials
        self.lock_timeout = dsn.lock_timeout
        self._limit = dsn.lock_timeout * 2 + _GRACE
        self._threads = ThreadPoolExecutor(_THREADS, "mysql")
        self._pool = pool(_Held, options)
        self._generation = Generation()
        self._server = Server()
        limit = options.max_open_connections
        self._free = Free(limit if limit > 0 else _THREADS * 4, dsn.lock_timeout)

    # ---- opening

    async def open(self) -> None:
        password = await self._password()
        try:
            self._server = await asyncio.to_thread(prepare, self._dsn, password)
        except StatementError as error:
            raise self._advised(error) from None

    def _advised(self, error: StatementError) -> StatementError:
        if self._credentials is None or error.code != _DENIED:
            return error
        return StatementError(error.kind, error.code, f"{error}; {self._credentials.advice}")

    async def _password(self) -> str:
        if self._credentials is None:
            return self._dsn.password
        try:
            issued = await self._credentials.credential(self._dsn.host, self._dsn.port, self._dsn.user)
        except IdentityError as error:
            raise StatementError(Kind.AWAY, "identity", str(error)) from None
        return issued or ""

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.dispose)
        self._threads.shutdown(wait=False)

    async def hint(self) -> None:
        """MySQL has nothing to tell clients of each other's commits."""
        await asyncio.get_running_loop().create_future()

    # ---- one statement

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return await self._read(name, written(statement, parameters))

    async def newest(self) -> int:
        statement = _NEWEST if self._server.own else statements.NEWEST.encode()
        [(newest, *read_only)] = await self._read("CurrentRev", statement)
        if any(read_only):
            self._generation.end(self._generation.number)
            raise StatementError(Kind.AWAY, "1290", REPLICA)
        return newest or 0

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        wanted = b", ".join(b"%d" % row_id for row_id in ids)
        rows = await self._read("Values", b"SELECT id, value FROM kine WHERE id IN (" + wanted + b")")
        return {row_id: value or b"" for row_id, value in rows}

    async def size(self) -> Size:
        [(allocated, in_use)] = await self._read("GetSize", _SIZE.encode())
        return Size(int(allocated or 0), int(in_use or 0))

    async def defragment(self) -> None:
        # By itself, as it may take longer than a statement's due.
        connection = await asyncio.to_thread(
            connect, self._dsn, await self._password(), database=self._dsn.database, limit=0
        )
        try:
            await asyncio.to_thread(run, connection, b"OPTIMIZE NO_WRITE_TO_BINLOG TABLE kine")
        except pymysql.MySQLError as error:
            raise translated(error) from error
        finally:
            drop(connection)

    async def _read(self, name: str, statement: bytes) -> list[Any]:
        for last in (False, True):
            try:
                async with self._checkout(name) as call:
                    found: list[list[Any]] = await call(run, statement)
                    return found[0]
            except StatementError as error:
                if last or error.kind is not Kind.LOST:  # a connection lost while it lay idle
                    raise
        raise AssertionError

    # ---- appending

    async def append(self, batch: Batch) -> list[int | None]:
        rows = [_values(row) for row in batch.rows]  # here, as it refuses keys
        async with self._checkout("Insert") as call:
            ids: list[int | None] = await call(self._append, batch, rows)
            return ids

    def _append(self, connection: Connection, batch: Batch, rows: list[bytes]) -> list[int | None]:
        with _rolled_back(connection):
            newest = _begin(connection, batch)
            places = list(range(len(rows)))
            if newest < batch.head:
                raise BehindError  # what the writes rest on was lost in a failover
            if newest > batch.head:
                places = _possible(connection, batch.rows)
            ids = self._insert(connection, batch.rows, rows, places, end=b"; COMMIT")
        return [ids.get(place) for place in range(len(rows))]

    def _insert(
        self,
        connection: Connection,
        rows: Sequence[NewRow],
        written_rows: list[bytes],
        places: Sequence[int],
        *,
        end: bytes = b"",
    ) -> dict[int, int]:
        """Ids by place. In one packet, or as many as the server's limit on packets asks for."""
        ids: dict[int, int] = {}
        limit = self._server.max_packet - _PACKET_MARGIN
        start = 0
        while start < len(places):
            size = len(written_rows[places[start]])
            stop = start + 1
            while stop < len(places) and size + len(written_rows[places[stop]]) + 2 <= limit:
                size += len(written_rows[places[stop]]) + 2
                stop += 1
            part = places[start:stop]
            statement = _INSERT + b", ".join([written_rows[place] for place in part])
            if any(rows[place].prev_revision for place in part):
                statement += _OLD_VALUES % len(part)
            leased = b", ".join(
                b"(LAST_INSERT_ID() + %d, %d, %d)"
                % (offset, rows[place].lease, statements.MORE if rows[place].more else 0)
                for offset, place in enumerate(part)
                if rows[place].lease or rows[place].more
            )
            if leased:
                statement += _LEASES + leased
            if stop == len(places):
                statement += end
            with connection.cursor() as cursor:
                cursor.execute(cast("str", statement))
                first = cursor.lastrowid
                while cursor.nextset():
                    pass
            # The number of rows is known beforehand, so InnoDB gives them ids in a row, in every mode.
            ids |= {place: first + offset for offset, place in enumerate(part)}
            start = stop
        if not places and end:
            run(connection, b"COMMIT")
        return ids

    # ---- transactions

    @asynccontextmanager
    async def transaction(self, name: str, *, batch: Batch | None = None) -> AsyncIterator[MysqlSession]:
        async with self._checkout(name) as call:
            session = MysqlSession(self, call)
            done = False
            try:
                if batch is not None:
                    session.newest = await call(_begin, batch)
                else:
                    await call(run, _TURN.rstrip(b"; ") if name == "Move" else b"BEGIN")
                yield session
                await call(run, b"COMMIT")
                done = True
            finally:
                if not done:
                    await call(_roll_back)

    # ---- connections

    @asynccontextmanager
    async def _checkout(self, name: str) -> AsyncIterator[_Call]:
        async with self._free.one():
            fairy = take(self._pool, self._generation)
            held: _Held = fairy.dbapi_connection  # type: ignore[assignment]
            loop = asyncio.get_running_loop()

            async def call(work: Callable[..., T], *args: Any) -> T:
                try:
                    return await loop.run_in_executor(self._threads, work, held.connection, *args)
                except pymysql.MySQLError as error:
                    failure = translated(error)
                    if failure.kind is Kind.LOST or (error.args and error.args[0] in TURNED):
                        self._generation.end(held.generation)
                    raise failure from error
                except (OSError, RuntimeError) as error:
                    raise StatementError(
                        Kind.LOST, type(error).__name__, "the connection was lost"
                    ) from error

            clean = False
            try:
                with timed(name, self._options) as outcome:
                    try:
                        if not fit(held, self._generation):
                            held.close()
                            await self._reconnect(held)
                        yield call
                        clean = True
                    except StatementError as error:
                        outcome.code = error.code
                        clean = error.kind not in (Kind.LOST, Kind.AWAY)
                        raise
                    except (DriverError, FencedError):
                        clean = True
                        raise
            finally:
                if not clean:
                    held.close()
                fairy.close()

    async def _reconnect(self, held: _Held) -> None:
        password = await self._password()
        held.generation = self._generation.number
        loop = asyncio.get_running_loop()
        try:
            held.connection = await loop.run_in_executor(
                self._threads,
                lambda: connect(self._dsn, password, database=self._dsn.database, limit=self._limit),
            )
        except StatementError as error:
            raise self._advised(error) from None


_Call = Callable[..., Any]


class _Held:
    """A `Place` of the pool."""

    __slots__ = ("connection", "generation")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.generation = 0

    @property
    def usable(self) -> bool:
        return self.connection is not None

    def close(self) -> None:
        if self.connection is not None:
            drop(self.connection)
            self.connection = None

    def rollback(self) -> None:
        """Asked for by the pool's protocol; whoever hands a connection back has ended its transaction."""


class MysqlSession:
    """See `kine.drivers.sql.database.Session`."""

    def __init__(self, database: MysqlDatabase, call: _Call) -> None:
        self._database = database
        self._call = call
        self.newest = 0

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        found: list[list[Any]] = await self._call(run, written(statement, parameters))
        return found[0] if found else []

    async def changed(self, statement: str, parameters: Sequence[object] = ()) -> int:
        count: int = await self._call(_changed, written(statement, parameters))
        return count

    async def insert(self, rows: Sequence[NewRow]) -> list[int]:
        places = range(len(rows))
        ids = await self._call(self._database._insert, rows, [_values(row) for row in rows], places)
        return [ids[place] for place in places]

    async def place(self, ids: Sequence[int], rows: Sequence[NewRow]) -> None:
        placed = [b"(%d, %s" % (row_id, _values(row)[1:]) for row_id, row in zip(ids, rows, strict=True)]
        await self._call(run, _PLACE + b", ".join(placed))

    async def fill(self, ids: Sequence[int]) -> set[int]:
        filled: set[int] = await self._call(_fill, ids)
        return filled

    async def remove(self, ids: Sequence[int]) -> None:
        listed = b", ".join(b"%d" % row_id for row_id in ids)
        for statement in _REMOVE:
            await self._call(run, statement % (listed, len(ids)))

    async def allot_after(self, row_id: int) -> None:
        """An id that was inserted moves the table's counter by itself."""


def _begin(connection: Connection, batch: Batch) -> int:
    """Takes the turn, claims the batch, and returns the newest id committed before it."""
    claim = written(statements.CLAIM, (batch.number, batch.writer, batch.number))
    found = run(
        connection,
        _TURN + claim + b"; SELECT batch, head FROM kine_writer WHERE id = %d" % batch.writer,
    )
    claimed = found[1]
    if not claimed or claimed[0][0] != batch.number:
        raise FencedError
    return int(claimed[0][1])


def _possible(connection: Connection, rows: Sequence[NewRow]) -> list[int]:
    """Others have appended: the rows that conflict with nothing, and replace what is there."""
    pairs = b", ".join(b"(%s, %d)" % (name(row.name), row.prev_revision) for row in rows)
    names = b", ".join(name(row.name) for row in rows)
    replaced = {row.prev_revision for row in rows if row.prev_revision and not row.created}
    question = (
        b"SELECT name, prev_revision FROM kine WHERE (name, prev_revision) IN (" + pairs + b");"
        b" SELECT name, max(id) FROM kine WHERE deleted = 0 AND name IN (" + names + b") GROUP BY name"
    )
    if replaced:
        wanted = b", ".join(b"%d" % row_id for row_id in replaced)
        question += b"; SELECT id, name FROM kine WHERE id IN (" + wanted + b")"
    found = run(connection, question)
    # As the index compares: it may take more names for the same than we do.
    taken = {(_folded(taken_name), prev) for taken_name, prev in found[0]}
    last: dict[bytes, int] = {_folded(last_name): row_id for last_name, row_id in found[1]}
    there = {(row_id, _folded(its)) for row_id, its in found[2]} if replaced else set()

    def possible(row: NewRow) -> bool:
        folded = _folded(row.name)
        if (folded, row.prev_revision) in taken:
            return False
        if row.created:  # its first row may be compacted while what replaced it is there
            return last.get(folded, 0) <= row.prev_revision
        return not row.prev_revision or (row.prev_revision, folded) in there

    return [place for place, row in enumerate(rows) if possible(row)]


def _changed(connection: Connection, statement: bytes) -> int:
    with connection.cursor() as cursor:
        count: int = cursor.execute(cast("str", statement))
        return count


def _fill(connection: Connection, ids: Sequence[int]) -> set[int]:
    return {
        row_id
        for row_id in ids
        if _filled(connection, row_id, "") or _filled(connection, row_id, gaps.unguessable())
    }


def _filled(connection: Connection, row_id: int, suffix: str) -> bool:
    return bool(_changed(connection, (_FILL % (row_id, gaps.name(row_id) + suffix)).encode()))


@contextmanager
def _rolled_back(connection: Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: Connection) -> None:
    try:
        run(connection, b"ROLLBACK")
    except (pymysql.MySQLError, OSError, RuntimeError):
        drop(connection)


def _values(row: NewRow) -> bytes:
    return b"(%s, %d, %d, %d, %d, %d, %s)" % (
        name(row.name),
        row.created,
        row.deleted,
        row.create_revision,
        row.prev_revision,
        row.ttl,
        blob(row.value),
    )


def _folded(key: bytes) -> bytes:
    return key.rstrip(b" ").lower()
