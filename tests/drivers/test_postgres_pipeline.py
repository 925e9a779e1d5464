"""Statements sent to PostgreSQL in pipeline mode, without psycopg's cursors."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from kine.drivers.base import UnavailableError
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.postgres.pipeline import Pipeline, Question, Statement
from kine.drivers.postgres.reconnecting_pipeline import ReconnectingPipeline
from kine.drivers.sql.log import SqlLog
from kine.drivers.sql.pool import Generation
from tests.databases import postgres
from tests.databases.proxy import Proxy
from tests.drivers.driver_databases import PostgresPlace
from tests.drivers.row_shorthand import all_rows, created, write
from tests.servers.postgres import database_server

if TYPE_CHECKING:
    from tests.drivers.conftest import OpenLog

pytestmark = pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-")

ANSWER: Question = (Statement(b"answer", b"SELECT 42::text"), ())
NOTHING: Question = (Statement(b"", b"SELECT 1 / 0"), ())


def echo(value: bytes) -> Question:
    return Statement(b"echo", b"SELECT $1", (17,)), (value,)


async def connect(port: int | None = None) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1",
        port=port or database_server().port,
        user="postgres",
        password="secret",
        autocommit=True,
    )


@asynccontextmanager
async def opened(port: int | None = None) -> AsyncIterator[Pipeline]:
    wire = Pipeline(await connect(port))
    try:
        async with asyncio.timeout(60):
            yield wire
    finally:
        wire.close()


@pytest.fixture
async def wire() -> AsyncIterator[Pipeline]:
    async with opened() as wire:
        yield wire


async def values(wire: Pipeline, *questions: Question) -> list[bytes | None]:
    return [answer.get_value(0, 0) for answer in await wire.ask(questions, prepared=False)]


async def test_answers_come_in_order(wire: Pipeline) -> None:
    several = [values(wire, echo(b"%d" % number), ANSWER) for number in range(20)]
    assert await asyncio.gather(*several) == [[b"%d" % number, b"42"] for number in range(20)]


async def test_a_failure_is_of_those_asked_with_it_only(wire: Pipeline) -> None:
    before, failing, after = (
        wire.ask([question, ANSWER], prepared=False) for question in (ANSWER, NOTHING, ANSWER)
    )
    with pytest.raises(psycopg.errors.DivisionByZero):
        await failing
    assert [len(await before), len(await after)] == [2, 2]


async def test_what_was_asked_together_is_undone_together(wire: Pipeline) -> None:
    await wire.ask([(Statement(b"", b"CREATE TEMPORARY TABLE seen (n int)"), ())], prepared=False)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await wire.ask([(Statement(b"", b"INSERT INTO seen VALUES (1)"), ()), NOTHING], prepared=False)
    assert await values(wire, (Statement(b"", b"SELECT count(*)::text FROM seen"), ())) == [b"0"]


async def test_a_commit_that_is_refused_is_a_failure(wire: Pipeline) -> None:
    """A deferred constraint fails at the commit, after every statement has succeeded."""
    deferred = b"CREATE TEMPORARY TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    await wire.ask([(Statement(b"", deferred), ())], prepared=False)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await wire.ask([(Statement(b"", b"INSERT INTO deferred VALUES (1), (1)"), ())], prepared=False)
    assert await values(wire, ANSWER) == [b"42"]


async def test_a_transaction_left_open_by_a_failure_ends_with_its_connection(wire: Pipeline) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await wire.ask([(Statement(b"", b"BEGIN"), ()), NOTHING], prepared=False)
    assert wire.closed


async def test_large_questions_and_answers_pass_each_other(wire: Pipeline) -> None:
    blobs = [bytes([number]) * 4_000_000 for number in range(4)]
    assert await asyncio.gather(*(values(wire, echo(blob)) for blob in blobs)) == [[blob] for blob in blobs]


async def test_answer_that_libpq_has_at_hand_is_not_waited_for(wire: Pipeline) -> None:
    """libpq reads on its own where it cannot send at once."""
    first = values_later(wire, ANSWER)
    libpq = wire.connection.pgconn
    while libpq.is_busy():
        assert select.select([libpq.socket], [], [], 10)[0]
        libpq.consume_input()
    second = values_later(wire, ANSWER)
    assert [await first, await second] == [[b"42"], [b"42"]]


def values_later(wire: Pipeline, question: Question) -> asyncio.Task[list[bytes | None]]:
    asked = wire.ask([question], prepared=False)

    async def read() -> list[bytes | None]:
        return [answer.get_value(0, 0) for answer in await asked]

    return asyncio.ensure_future(read())


async def test_a_lost_connection_fails_what_is_under_way_and_what_comes_after() -> None:
    async with Proxy(database_server().port) as proxy, opened(proxy.port) as wire:
        proxy.stall()
        hanging = [wire.ask([ANSWER], prepared=False) for _ in range(3)]
        await asyncio.sleep(0)
        proxy.cut()
        for asked in hanging:
            with pytest.raises(psycopg.OperationalError):
                await asked
        with pytest.raises(psycopg.OperationalError):
            await wire.ask([ANSWER], prepared=False)
        with pytest.raises(psycopg.OperationalError):
            await wire.prepare(ANSWER[0])


async def test_a_line_replaces_what_is_lost_and_what_is_of_another_generation() -> None:
    generation = Generation()
    line = ReconnectingPipeline(connect, generation, 0.0)
    try:
        first = await line.wire()
        [answer] = await line.ask([ANSWER], prepare=True, limit=5)
        assert (answer.get_value(0, 0), first.prepared) == (b"42", {b"answer"})
        slow = line.ask([(Statement(b"", b"SELECT pg_sleep(0.2)"), ())], prepare=False, limit=5)
        underway = asyncio.ensure_future(slow)
        await asyncio.sleep(0)
        generation.end(0)
        second = await line.wire()
        assert len(await underway) == 1  # on the first, which is only then closed
        assert (first.closed, second.closed) == (True, False)
        second.close()
        assert len(await line.ask([ANSWER], prepare=True, limit=5)) == 1
        assert generation.number == 2  # connections made before the second are not to be used either
        generation.end(1)
        assert generation.number == 2
    finally:
        line.close()


async def test_a_line_gives_up_what_is_not_answered_in_time() -> None:
    async with Proxy(database_server().port) as proxy:
        line = ReconnectingPipeline(lambda: connect(proxy.port), Generation(), 0.0)
        await line.wire()
        proxy.stall()
        with pytest.raises(psycopg.OperationalError):
            await line.ask([ANSWER], prepare=False, limit=0.1)
        proxy.flow()
        line.close()


async def test_connections_made_since_a_loss_outlive_the_discovery_of_older_ones(open_log: OpenLog) -> None:
    """By then the database may accept no new ones: it has too many, or its KDC is down."""
    async with Proxy(database_server().port) as proxy, asyncio.timeout(60):
        log = await open_log(PostgresPlace(database_server()), port=proxy.port)
        assert isinstance(log, SqlLog)
        database = log._database
        assert isinstance(database, PostgresDatabase)
        while not database.hinting:  # its trial uses the pool
            await database.hint()
        await log._query("Test", "SELECT 1")  # on the pool's connection
        writing = await database._writing.wire()
        proxy.cut()
        await writing.ended.wait()
        await log.append([write(created(b"/first"))], 0)
        await log._query("Test", "SELECT 1")
        proxy.refusing = True
        await log.append([write(created(b"/second"))], 1)


async def test_the_newest_id_is_asked_for_again_when_the_connection_is_lost(open_log: OpenLog) -> None:
    async with Proxy(database_server().port) as proxy, asyncio.timeout(60):
        log = await open_log(PostgresPlace(database_server()), port=proxy.port)
        await log.append([write(created(b"/first"))], 0)
        assert await log.newest() == 1  # on a connection of its own, that is open now
        proxy.stall()
        again, given_up = log.newest(), log.newest()
        assert isinstance(again, asyncio.Future)
        assert isinstance(given_up, asyncio.Future)
        given_up.cancel()
        proxy.cut()
        proxy.flow()
        assert await again == 1
        proxy.stall()
        in_vain = log.newest()
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(UnavailableError):
            await in_vain


async def test_a_write_that_never_arrived_is_carried_out_once(open_log: OpenLog) -> None:
    place = PostgresPlace(database_server())
    async with Proxy(database_server().port) as proxy, asyncio.timeout(60):
        log = await open_log(place, port=proxy.port)
        await log.append([write(created(b"/before"))], 0)
        proxy.stall()
        underway = asyncio.ensure_future(log.append([write(created(b"/lost"))], 1))
        await asyncio.sleep(0)
        proxy.cut()
        proxy.flow()
        [ids] = await underway
        assert ids is not None
        assert [(row.name, row.id) for row in await all_rows(log)] == [(b"/before", 1), (b"/lost", ids[0])]


async def test_a_write_that_landed_though_the_connection_was_lost_is_told_so(open_log: OpenLog) -> None:
    place = PostgresPlace(database_server())
    other = await open_log(place)
    async with Proxy(database_server().port) as proxy, asyncio.timeout(60):
        log = await open_log(place, port=proxy.port)
        await log.append([write(created(b"/before"))], 0)
        proxy.swallow_answers = True
        underway = asyncio.ensure_future(log.append([write(created(b"/landed"))], 1))
        while await other.newest() == 1:
            await other.changed(1)
        proxy.cut()
        proxy.swallow_answers = False
        [ids] = await underway
        assert list(ids or ()) == [2]
        assert [(row.name, row.id) for row in await all_rows(other)] == [(b"/before", 1), (b"/landed", 2)]
