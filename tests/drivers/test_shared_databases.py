"""Failures that instances on a shared database must survive: from each other, the server and the pool."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from kine.drivers.base import Options, UnavailableError, UnknownOutcomeError
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.sql.database import Batch
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.log import SqlLog
from tests.databases.proxy import ANSWERS, Proxy
from tests.drivers.driver_databases import MysqlPlace, lock_timeout
from tests.drivers.row_shorthand import created, deleted, updated, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.databases.mysql import Mysql
    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import GoWriter, Place


async def test_the_wait_for_a_free_connection_ends(shared_place: Place, open_log: OpenLog) -> None:
    """The pool may have one connection only, and that one hangs."""
    async with Proxy(shared_place.server.port) as proxy:  # type: ignore[attr-defined]
        options = Options(max_open_connections=1)
        log = await open_log(shared_place, lock_timeout(shared_place, 1), port=proxy.port, options=options)
        assert isinstance(log, SqlLog)
        if isinstance(log._database, PostgresDatabase):
            while not log._database.hinting:  # its trial uses the connection
                await log._database.hint()
        proxy.stall()
        hanging = asyncio.ensure_future(log.newest())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="connections to the database were in use"):
            await asyncio.wait_for(log.newest(), 60)
        proxy.flow()
        assert await hanging == 0


async def test_an_idle_connection_serves_while_no_new_one_is_to_be_had(
    shared_place: Place, open_log: OpenLog
) -> None:
    """The slot of a lost connection is the first to be taken again, and is empty."""
    async with Proxy(shared_place.server.port) as proxy:  # type: ignore[attr-defined]
        log = await open_log(shared_place, port=proxy.port)
        assert isinstance(log, SqlLog)
        transaction = log._database.transaction

        async def lose(meanwhile: Callable[[], Awaitable[None]]) -> None:
            async with transaction("Test") as session:
                await session.run("SELECT 1")
                proxy.cut()
                await meanwhile()
                with pytest.raises(StatementError):
                    await session.run("SELECT 1")

        async def find_another_lost_first() -> None:
            with contextlib.suppress(StatementError):  # the commit fails, too
                await lose(lambda: asyncio.sleep(0))
            async with transaction("Test") as made_since:
                await made_since.run("SELECT 1")

        with contextlib.suppress(StatementError):
            await lose(find_another_lost_first)
        proxy.refusing = True
        async with transaction("Test") as session:
            assert await session.run("SELECT 1")


async def test_an_instance_that_stops_in_a_transaction_holds_nobody_up(
    shared_place: Place, open_log: OpenLog
) -> None:
    """As by SIGSTOP between two statements: the transaction times out before the others' lock wait does."""
    parameters = lock_timeout(shared_place, 4)
    stopped, other = await open_log(shared_place, parameters), await open_log(shared_place, parameters)
    assert isinstance(stopped, SqlLog)
    row = created(b"/stopped")
    batch = Batch([row], stopped._id, 1, 0)
    ids = None
    with contextlib.suppress(StatementError):  # the server ended the transaction; errors differ
        async with stopped._database.transaction("Insert", batch=batch) as session:
            await session.insert([row])
            [ids] = await other.append([write(created(b"/other"))], 0)
            await session.insert([created(b"/stopped/too")])
            raise AssertionError("still in its transaction")
    assert ids is not None
    [again] = await stopped.append([write(row, created(b"/stopped/too"))], 0)
    assert again is not None
    assert again[0] > ids[0]


async def test_a_commit_that_compaction_went_over_is_not_taken_for_anothers(
    shared_place: Place, open_log: OpenLog
) -> None:
    """Its response was lost; before it is looked up, the key is deleted, compacted, and created alike."""
    log, other = await open_log(shared_place), await open_log(shared_place)
    assert isinstance(log, SqlLog)
    await other.append([write(created(b"compact_rev_key", b""))], 0)
    row = created(b"/a", b"the same")
    await log.append([write(row)], 1)
    [(batch, head)] = await log._query("Test", "SELECT batch, head FROM kine_writer WHERE id = ?", (log._id,))
    asked = [write(row)], Batch([row], log._id, batch, head)
    assert await log._appender._landed(*asked) == [[2]]
    await other.append([write(deleted(b"/a", 2))], 2)
    await other.append([write(created(b"/b"))], 3)
    await other.compact(4, [])
    await other.append([write(row)], 4)
    with pytest.raises(UnknownOutcomeError):
        await log._appender._landed(*asked)


async def test_a_replica_made_of_the_primary_is_not_read_from(open_log: OpenLog, mysql_server: Mysql) -> None:
    """MySQL keeps its connections; its data may be old from then on. PostgreSQL is restarted."""
    log = await open_log(MysqlPlace(mysql_server))
    assert await log.newest() == 0
    with mysql_server.admin().cursor() as admin:
        admin.execute("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(UnavailableError, match="read-only replica"):
                await log.newest()
        finally:
            admin.execute("SET GLOBAL read_only = 0")
    assert await log.newest() == 0


async def test_a_write_that_landed_is_not_denied_because_the_database_then_went_away(
    shared_place: Place, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write of the group conflicts: the query for its state must not delay or fail the first."""
    log = await open_log(shared_place)
    other = await open_log(shared_place)
    await other.append([write(created(b"/taken"))], 0)

    async def away(*_: object) -> None:
        raise StatementError(Kind.AWAY, "2013", "the database has gone away")

    monkeypatch.setattr(log._database, "query", away)  # type: ignore[attr-defined]
    landed, conflict = await log.append([write(created(b"/new")), write(created(b"/taken"))], 0)

    assert landed
    assert conflict is None


@pytest.mark.parametrize("moment", ["waiting", "committed"])
async def test_compaction_whose_connection_is_lost_is_done_again(
    shared_place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter], moment: str
) -> None:
    """It used to end with the connection, and so did the call of the client that had requested it."""
    async with Proxy(shared_place.server.port) as proxy:  # type: ignore[attr-defined]
        log = await open_log(shared_place, port=proxy.port)
        rows = [created(b"compact_rev_key", b""), created(b"/a"), created(b"/b")]
        [_, [first], [last]] = await log.append([write(row) for row in rows], 0)  # type: ignore[misc]
        [[after]] = await log.append([write(updated(b"/a", first, first))], last)  # type: ignore[misc]
        writer = go(shared_place)
        recorded = "SELECT max(prev_revision) FROM kine WHERE name = 'compact_rev_key'"
        if moment == "waiting":
            writer.begin()
            writer.run("SELECT id FROM kine WHERE name = 'compact_rev_key' FOR UPDATE")
            compacting = asyncio.ensure_future(log.compact(after, []))
            await asyncio.sleep(0.2)  # it waits for that row, or is about to: either is lost
            proxy.cut()
            writer.rollback()
        else:
            proxy.delay[ANSWERS] = 0.3
            compacting = asyncio.ensure_future(log.compact(after, []))
            while writer.run(recorded) != [(after,)]:  # noqa: ASYNC110 - in the database
                await asyncio.sleep(0.01)
            proxy.delay[ANSWERS] = 0.0
            proxy.cut()

        assert await compacting == after
        assert writer.run(recorded) == [(after,)]
        assert await log.values([first]) == {}
