"""Connection pool flags, measured by the number of connections that the database server reports."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from kine.drivers.base import Options
from kine.drivers.sql.log import SqlLog
from tests.drivers.driver_databases import MysqlPlace, PostgresPlace
from tests.drivers.row_shorthand import created, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import Place

WAIT = 60.0  # seconds; generous, as a loaded machine is no failure


@pytest.fixture
def connections(shared_place: Place) -> Callable[[], int]:
    """The number of others' connections that the server has on this database."""
    assert isinstance(shared_place, PostgresPlace | MysqlPlace)
    admin = shared_place.server.admin()
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        if isinstance(shared_place, PostgresPlace)
        else "SELECT count(*) FROM information_schema.processlist WHERE db = %s"
    )

    def count() -> int:
        with admin.cursor() as cursor:
            cursor.execute(question, (shared_place.database,))
            [found] = cursor.fetchone()
            return int(found)

    return count


@pytest.fixture
def lines(shared_place: Place) -> int:
    """The number of connections that all users share, outside of the pool."""
    return 2 if shared_place.kind == "postgres" else 0


async def use_at_once(log: SqlLog, count: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(count):
            session = await stack.enter_async_context(log._database.transaction("Test"))
            await session.run("SELECT 1")


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not there():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


async def test_no_idle_connection_is_kept(
    shared_place: Place, open_log: OpenLog, connections: Callable[[], int], lines: int
) -> None:
    log = await open_log(shared_place, options=Options(max_idle_connections=0))
    assert isinstance(log, SqlLog)

    await use_at_once(log, 5)

    await until(lambda: connections() <= lines)
    assert await log.newest() == 0


async def test_as_many_idle_connections_are_kept_as_allowed(
    shared_place: Place, open_log: OpenLog, connections: Callable[[], int], lines: int
) -> None:
    log = await open_log(shared_place, options=Options(max_idle_connections=2))
    assert isinstance(log, SqlLog)

    await use_at_once(log, 5)

    await until(lambda: connections() <= lines + 2)
    assert connections() >= 2


async def test_a_connection_idle_for_too_long_is_closed_though_nobody_asks_for_one(
    shared_place: Place, open_log: OpenLog, connections: Callable[[], int], lines: int
) -> None:
    log = await open_log(shared_place, options=Options(connection_max_idle_time=0.5))
    assert isinstance(log, SqlLog)

    await use_at_once(log, 5)

    await until(lambda: connections() <= lines)
    await use_at_once(log, 2)
    assert await log.newest() == 0


@pytest.mark.parametrize("most", [2, 3, 5])
async def test_no_more_connections_are_open_than_allowed(
    shared_place: Place, open_log: OpenLog, connections: Callable[[], int], most: int
) -> None:
    """Every opened connection stays open: idle ones are kept."""
    log = await open_log(shared_place, options=Options(max_open_connections=most))
    writing = asyncio.Lock()  # as the store has one writer

    async def work(number: int) -> None:
        async with writing:
            await log.append([write(created(b"/%d" % number))], 0)
        await log.newest()
        await log.tail(0, 10)

    async with asyncio.timeout(WAIT):
        await asyncio.gather(*map(work, range(16)))

    await until(lambda: connections() <= most)
