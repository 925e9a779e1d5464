"""The `Database` of the SQL log, on MySQL and MariaDB: blocking PyMySQL connections in a thread pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pymysql

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import (
    DriverError,
    InvalidKeyError,
    NewRow,
    Options,
    Size,
    TooLargeError,
)
from kine.drivers.mysql.connection import (
    REPLICA,
    Connection,
    blob,
    close,
    connect,
    drop,
    is_on,
    name,
    next_id,
    run,
    written,
)
from kine.drivers.mysql.failures import ACCOUNT, TURNED, translated
from kine.drivers.mysql.safety_settings import check_tables
from kine.drivers.mysql.setup import ServerInfo, prepare
from kine.drivers.sql import id_gaps, statements
from kine.drivers.sql.database import Batch, FencedError, WentBackError, idle_limit
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.pool import ConnectionSlots, Generation, Pool, fit
from kine.drivers.sql.statement_timing import timed
from kine.identity.base import IdentityError

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 8
_PARTING = 1.0  # seconds a statement whose caller was cancelled has to end
_GRACE = 5.0  # seconds a response may take beyond the longest wait for a lock
_DENIED = "1045"
_ASKED_AT_ONCE = 64  # names in one query: 80 KiB at most
_PACKET_MARGIN = 16 * 1024
_LARGEST_VALUE = (1 << 24) - 1  # of a MEDIUMBLOB
_LEASE_BYTES = 80  # the most that a row with a lease takes in the INSERT into kine_extra

# Waits for the writers' lock. Only later statements see what was committed meanwhile.
_TURN = b"BEGIN; SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE; "
_SNAPSHOT_IDLE = b"SET SESSION idle_transaction_timeout = 120; "  # long, as a snapshot holds no locks
_SNAPSHOT = (
    b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
)
_INSERT = b"INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) VALUES "
_PLACE = _INSERT.replace(b"(name", b"(id, name")
# The old value is set afterwards: with INSERT ... SELECT, MySQL would reserve ids that it does not use.
_OLD_VALUES = (
    b"; UPDATE kine AS k JOIN kine AS p ON p.id = k.prev_revision SET k.old_value = p.value"
    b" WHERE k.id >= LAST_INSERT_ID() AND k.id < LAST_INSERT_ID() + %d AND k.prev_revision != 0"
)
_LEASES = b"; INSERT INTO kine_extra (id, lease, version) VALUES "
# ORDER BY and LIMIT: without them MySQL scans a small table, and locks every row it reads.
_REMOVE = (
    b"DELETE FROM kine_extra WHERE id IN (%b) ORDER BY id LIMIT %d",
    b"DELETE FROM kine WHERE id IN (%b) ORDER BY id LIMIT %d",
)
_FILL = b"INSERT IGNORE INTO kine (id, name, created, deleted, create_revision, prev_revision, lease) VALUES "
# Also whether the server has become a replica while connected.
_NEWEST = b"SELECT max(id), @@global.read_only, @@global.innodb_read_only FROM kine"
_SIZE = (
    "SELECT CAST(sum(data_length + index_length + data_free) AS UNSIGNED),"
    " CAST(sum(data_length + index_length) AS UNSIGNED)"
    " FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'kine'"
)


class MysqlDatabase:
    """Implements `kine.drivers.sql.database.Database`."""

    hinting = False

    def __init__(self, dsn: Dsn, options: Options, credentials: Provider | None = None) -> None:
        self._dsn = dsn
        self._options = options
        self._credentials = credentials
        self.on_wait: Callable[[str], None] = lambda why: None
        if credentials is not None:
            credentials.report_to(lambda why: self.on_wait(why))
        self.lock_timeout = dsn.lock_timeout
        self._limit = dsn.lock_timeout * 2 + _GRACE
        self._threads = ThreadPoolExecutor(_THREADS, "mysql")
        self._pool = Pool(_Held, options)
        self._parting = BackgroundTasks()
        self._generation = Generation()
        self._server = ServerInfo()
        self._packet = self._server.max_packet
        self._past = 0  # the server allots only ids above this one
        limit = options.max_open_connections
        self._free = ConnectionSlots(limit if limit > 0 else _THREADS * 4, dsn.lock_timeout)

    @property
    def max_storable_id(self) -> int:
        return self._server.max_storable_id

    # ---- opening

    async def open(self) -> None:
        password = await self._password()
        try:
            self._server = await asyncio.to_thread(prepare, self._dsn, password)
        except StatementError as error:
            raise self._advised(error) from None
        self._packet = self._server.max_packet
        largest = self._largest
        if largest < self._options.max_request_bytes:
            log.warning(
                "the server's max_allowed_packet is %d bytes: values from about %d bytes on will be refused"
                " as too large; set it to at least %d",
                self._packet,
                largest,
                self._options.max_request_bytes * 2,
            )

    def _advised(self, error: StatementError) -> StatementError:
        if self._credentials is None or error.code != _DENIED:
            return error
        self._credentials.refused()
        said = str(error).removesuffix(f"; {ACCOUNT}")
        return StatementError(error.kind, error.code, f"{said}; {self._credentials.advice}")

    async def _password(self) -> str:
        if self._credentials is None:
            return self._dsn.password
        try:
            issued = await self._credentials.credential(self._dsn.host, self._dsn.port, self._dsn.user)
        except IdentityError as error:
            raise StatementError(Kind.AWAY, "identity", str(error)) from None
        return issued or ""

    async def close(self) -> None:
        await self._parting.ended()
        await asyncio.to_thread(self._pool.close)
        self._threads.shutdown(wait=False)
        if self._credentials is not None:
            await self._credentials.close()

    async def hint(self) -> None:
        """Never returns: MySQL has no notifications between clients."""
        await asyncio.get_running_loop().create_future()

    # ---- one statement

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return await self._read(name, written(statement, parameters))

    async def newest(self) -> int:
        statement = _NEWEST if self._server.own else statements.NEWEST.encode()
        [(newest, *read_only)] = await self._read("CurrentRev", statement)
        if any(map(is_on, read_only)):
            self._generation.end(self._generation.number)
            raise StatementError(Kind.AWAY, "1290", REPLICA)
        return newest or 0

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        wanted = b", ".join(b"%d" % row_id for row_id in ids)
        rows = await self._read("Values", b"SELECT id, value FROM kine WHERE id IN (" + wanted + b")")
        return {row_id: value or b"" for row_id, value in rows}

    async def advance_allocator(self, floor: int) -> int | None:
        async with self._checkout("Allocator") as call:
            behind: int | None = await call(_advance_allocator, floor)
        self._past = max(self._past, floor)
        return behind

    async def unsafe(self) -> str:
        try:
            async with self._checkout("Tables") as call:
                await call(check_tables)
        except DriverError as error:
            return str(error)
        return ""

    async def size(self) -> Size:
        [(allocated, in_use)] = await self._read("GetSize", _SIZE.encode())
        return Size(int(allocated or 0), int(in_use or 0))

    async def refused(self, rows: Iterable[NewRow]) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        names: dict[bytes, bytes] = {}
        limit = self._server.max_packet - _PACKET_MARGIN
        for row in rows:
            size = len(row.value or b"")
            try:
                name(row.name)
            except InvalidKeyError as error:
                found[row.name] = str(error)
                continue
            if (other := names.setdefault(_folded(row.name), row.name)) != row.name:
                found[row.name] = f"{other!r} differs only in upper and lower case or in spaces at its end"
            elif size > _LARGEST_VALUE or (2 * size > limit and len(_values(row)) > limit):
                found[row.name] = (
                    f"its value has {size} bytes, more than the server's max_allowed_packet"
                    f" ({self._server.max_packet}) or a MEDIUMBLOB ({_LARGEST_VALUE}) allows"
                )
        return found

    async def defragment(self) -> None:
        # On its own connection without a time limit, as it may take longer than any statement.
        connection = await asyncio.to_thread(
            connect, self._dsn, await self._password(), database=self._dsn.database, limit=0
        )
        try:
            await asyncio.to_thread(run, connection, b"OPTIMIZE NO_WRITE_TO_BINLOG TABLE kine")
        except pymysql.MySQLError as error:
            raise translated(error) from error
        finally:
            await asyncio.to_thread(close, connection)

    async def _read(self, name: str, statement: bytes) -> list[Any]:
        for last in (False, True):
            try:
                async with self._checkout(name) as call:
                    found: list[list[Any]] = await call(run, statement)
                    return found[0]
            except StatementError as error:
                # The connection was lost while idle, or its own state may have caused the error.
                if last or error.kind not in (Kind.LOST, Kind.AGAIN):
                    raise
        raise AssertionError

    # ---- appending

    async def append(self, batch: Batch) -> list[int | None]:
        rows = [self.encoded(row) for row in batch.rows]  # first, as it raises InvalidKeyError
        async with self._checkout("Insert") as call:
            ids: list[int | None] = await call(self._append, batch, rows)
            return ids

    @property
    def _largest(self) -> int:
        """Bytes a row may take in a statement, by max_allowed_packet when the last connection was opened."""
        return self._packet - min(_PACKET_MARGIN, self._packet // 4)

    def check(self, row: NewRow) -> None:
        self.encoded(row)

    def encoded(self, row: NewRow) -> bytes:
        """The row as SQL literals in parentheses. Raises InvalidKeyError."""
        values = _values(row)
        if len(values) > self._largest:
            raise TooLargeError(
                f"the row takes {len(values)} bytes in a statement, and the server's max_allowed_packet is"
                f" {self._packet}; raise that"
            )
        return values

    def _append(self, connection: Connection, batch: Batch, rows: list[bytes]) -> list[int | None]:
        with _rolled_back(connection):
            newest = self._begin(connection, batch)
            places = list(range(len(rows)))
            if newest < batch.head:
                raise WentBackError  # a failover has lost rows that the writes depend on
            if newest > batch.head:
                places = _possible(connection, batch.rows)
            ids = self.insert(connection, batch.rows, rows, places, brief=batch.brief, end=b"; COMMIT")
        return [ids.get(place) for place in range(len(rows))]

    def _begin(self, connection: Connection, batch: Batch) -> int:
        newest = _begin(connection, batch)
        # InnoDB's ids are above every row, but perhaps not above rows that a failover has lost.
        if batch.head <= newest < batch.floor and self._past < batch.floor:
            raise StatementError(Kind.REUSED, "", "the ids after the newest row have been given before")
        return newest

    def insert(
        self,
        connection: Connection,
        rows: Sequence[NewRow],
        written_rows: list[bytes],
        places: Sequence[int],
        *,
        brief: bool = False,
        end: bytes = b"",
    ) -> dict[int, int]:
        """Inserts the rows at `places`, in as few packets as the server's limit allows; ids by place."""
        ids: dict[int, int] = {}
        limit = self._largest
        start = 0
        while start < len(places):
            size = len(written_rows[places[start]])
            stop = start + 1
            while stop < len(places):
                more = len(written_rows[places[stop]]) + _LEASE_BYTES
                if size + more > limit:
                    break
                size += more
                stop += 1
            part = places[start:stop]
            statement = _INSERT + b", ".join([written_rows[place] for place in part])
            if not brief and any(rows[place].prev_revision for place in part):
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
            # InnoDB allots consecutive ids in every autoinc lock mode, as the number of rows is known.
            ids |= {place: first + offset for offset, place in enumerate(part)}
            start = stop
        if not places and end:
            run(connection, b"COMMIT")
        return ids

    def packets(self, written_rows: Sequence[bytes]) -> Iterator[bytes]:
        """The rows, joined to as few VALUES lists as the server's limit on packets allows."""
        limit = self._server.max_packet - _PACKET_MARGIN
        part: list[bytes] = []
        size = 0
        for row in written_rows:
            if part and size + len(row) > limit:
                yield b", ".join(part)
                part, size = [], 0
            part.append(row)
            size += len(row) + 2
        if part:
            yield b", ".join(part)

    # ---- transactions

    @asynccontextmanager
    async def transaction(self, name: str, *, batch: Batch | None = None) -> AsyncIterator[MysqlSession]:
        async with self._checkout(name) as call:
            session = MysqlSession(self, call)
            done = False
            try:
                if batch is not None:
                    session.newest = await call(self._begin, batch)
                else:
                    await call(run, _TURN.rstrip(b"; ") if name == "Move" else b"BEGIN")
                yield session
                await call(run, b"COMMIT")
                done = True
            except asyncio.CancelledError:
                done = True  # no rollback: `_checkout` closes the connection, after its running statement
                raise
            finally:
                if not done:
                    await call(_roll_back)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[MysqlSession]:
        async with self._checkout("Load") as call:
            limited = self._server.name == "MariaDB"
            await call(run, (_SNAPSHOT_IDLE if limited else b"") + _SNAPSHOT)
            try:
                yield MysqlSession(self, call)
            except asyncio.CancelledError:
                raise  # no rollback, as in `transaction`
            except BaseException:
                await call(_roll_back)
                raise
            await call(_roll_back)
            if limited:
                await call(run, b"SET SESSION idle_transaction_timeout = %d" % idle_limit(self.lock_timeout))

    # ---- connections

    @asynccontextmanager
    async def _checkout(self, name: str) -> AsyncIterator[_Call]:
        async with self._free.one():
            held = self._pool.take(self._generation)
            under_way: Future[Any] | None = None

            async def call(work: Callable[..., T], *args: Any) -> T:
                nonlocal under_way
                try:
                    under_way = self._threads.submit(work, held.connection, *args)
                    return cast("T", await asyncio.wrap_future(under_way))
                except pymysql.MySQLError as error:
                    failure = translated(error)
                    turned = bool(error.args) and error.args[0] in TURNED
                    its_own = failure.kind is Kind.REFUSED or (turned and failure.kind is Kind.UNABLE)
                    if its_own and self._generation.suspect(held.generation):
                        failure.kind = Kind.AGAIN
                    elif turned or failure.kind is Kind.LOST:
                        self._generation.end(held.generation)
                    raise failure from error
                except (OSError, RuntimeError) as error:
                    raise StatementError(
                        Kind.LOST, type(error).__name__, "the connection was lost"
                    ) from error

            clean = cancelled = False
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
                    except asyncio.CancelledError:
                        cancelled = True
                        raise
            finally:
                if cancelled and held.connection is not None:
                    self._part(held.connection, under_way)
                    held.connection = None
                elif not clean:
                    held.drop()
                self._pool.give(held)

    def _part(self, connection: Connection, under_way: Future[Any] | None) -> None:
        """Closes, in the background, a connection on which a thread may still be running a statement."""
        self._parting.start(self._parted(connection, under_way), "mysql goodbye")

    async def _parted(self, connection: Connection, under_way: Future[Any] | None) -> None:
        if under_way is not None:
            ended = asyncio.wrap_future(under_way)
            await asyncio.wait([ended], timeout=_PARTING)
            if not ended.done():
                drop(connection)  # ends the thread's wait
                await asyncio.wait([ended], timeout=_PARTING)
                return
            ended.cancelled() or ended.exception()
        await asyncio.get_running_loop().run_in_executor(self._threads, close, connection)

    async def _reconnect(self, held: _Held) -> None:
        password = await self._password()
        held.generation = self._generation.number
        connecting = self._threads.submit(self._connected, password)
        try:
            connection, packet = await asyncio.wrap_future(connecting)
            held.connection, self._packet = connection, int(packet)
        except asyncio.CancelledError:
            connecting.add_done_callback(_unwanted)
            raise
        except StatementError as error:
            raise self._advised(error) from None

    def _connected(self, password: str) -> tuple[Connection, Any]:
        """A new connection, and its max_allowed_packet. Raises StatementError."""
        connection = connect(self._dsn, password, database=self._dsn.database, limit=self._limit)
        try:
            [[(packet,)]] = run(connection, b"SELECT @@max_allowed_packet")
        except pymysql.MySQLError as error:
            close(connection)
            raise translated(error, connecting=True) from None
        return connection, packet


def _unwanted(connecting: Future[tuple[Connection, Any]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        close(connecting.result()[0])


_Call = Callable[..., Any]


class _Held:
    """Implements `kine.drivers.sql.pool.PooledResource`."""

    __slots__ = ("connection", "generation", "made")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.generation = 0
        self.made = monotonic()

    @property
    def usable(self) -> bool:
        return self.connection is not None

    def close(self) -> None:
        if self.connection is not None:
            close(self.connection)
            self.connection = None

    def drop(self) -> None:
        """Closes the socket, even while a statement is running."""
        if self.connection is not None:
            drop(self.connection)
            self.connection = None


class MysqlSession:
    """Implements `kine.drivers.sql.database.Session`."""

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
        values = [self._database.encoded(row) for row in rows]
        ids = await self._call(self._database.insert, rows, values, places)
        return [ids[place] for place in places]

    async def place(self, ids: Sequence[int], rows: Sequence[NewRow]) -> None:
        placed = [b"(%d, %s" % (row_id, _values(row)[1:]) for row_id, row in zip(ids, rows, strict=True)]
        for statement in self._database.packets(placed):
            await self._call(run, _PLACE + statement)

    async def fill(self, fillers: Sequence[id_gaps.Filler]) -> set[int]:
        filled: set[int] = await self._call(_fill, fillers)
        return filled

    async def remove(self, ids: Sequence[int]) -> None:
        listed = b", ".join(b"%d" % row_id for row_id in ids)
        for statement in _REMOVE:
            await self._call(run, statement % (listed, len(ids)))

    async def allot_after(self, row_id: int) -> None:
        """Does nothing: inserting an explicit id advances AUTO_INCREMENT automatically."""


def _begin(connection: Connection, batch: Batch) -> int:
    """Takes the writers' lock, claims the batch, and returns the newest id committed before it."""
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
    """The positions of the rows that can still be appended, after others have appended.

    Such a row conflicts with nothing, and the row that it replaces exists.
    """
    if len(rows) > _ASKED_AT_ONCE:
        return [
            start + place
            for start in range(0, len(rows), _ASKED_AT_ONCE)
            for place in _possible(connection, rows[start : start + _ASKED_AT_ONCE])
        ]
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
    # Compared as by the index, whose collation ignores case and trailing spaces.
    taken = {(_folded(taken_name), prev) for taken_name, prev in found[0]}
    last: dict[bytes, int] = {_folded(last_name): row_id for last_name, row_id in found[1]}
    there = {(row_id, _folded(its)) for row_id, its in found[2]} if replaced else set()

    def possible(row: NewRow) -> bool:
        folded = _folded(row.name)
        if (folded, row.prev_revision) in taken:
            return False
        if row.created:  # a key's first row may be compacted away, while a row that replaced it exists
            return last.get(folded, 0) <= row.prev_revision
        return not row.prev_revision or (row.prev_revision, folded) in there

    return [place for place, row in enumerate(rows) if possible(row)]


def _changed(connection: Connection, statement: bytes) -> int:
    with connection.cursor() as cursor:
        count: int = cursor.execute(cast("str", statement))
        return count


def _fill(connection: Connection, fillers: Sequence[id_gaps.Filler]) -> set[int]:
    values = b", ".join(_filler(*filler, "") for filler in fillers)
    if _changed(connection, _FILL + values) == len(fillers):
        return {row_id for row_id, _ in fillers}
    # Rows or others' fillers have taken some ids meanwhile, or a key has the name of a filler.
    listed = b", ".join(b"%d" % row_id for row_id, _ in fillers)
    [rows] = run(
        connection, b"SELECT id, name, deleted, prev_revision FROM kine WHERE id IN (" + listed + b")"
    )
    filled = {row[0] for row in rows if id_gaps.is_filler(*row[1:])}
    taken = {row[0] for row in rows}
    for filler in fillers:
        if filler.id not in taken:
            row = _filler(*filler, id_gaps.unguessable())
            if _changed(connection, _FILL + row):
                filled.add(filler.id)
    return filled


def _filler(row_id: int, last: int, suffix: str) -> bytes:
    return b"(%d, '%s', 0, 1, %d, 0, 0)" % (row_id, (id_gaps.name(row_id) + suffix).encode(), last)


def _advance_allocator(connection: Connection, floor: int) -> int | None:
    [[(_, made)], [(newest,)]] = run(connection, b"SHOW CREATE TABLE kine; SELECT max(id) FROM kine")
    following = next_id(made)
    last = max(newest or 0, floor)
    if following > last:
        return None
    run(connection, b"ALTER TABLE kine AUTO_INCREMENT = %d" % (last + 1))
    return following


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
