"""Pooled MySQL connections after one was lost: older ones are not used again, newer ones are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from kine.drivers.mysql.database import MysqlDatabase
from kine.drivers.sql.failures import StatementError
from kine.drivers.sql.log import SqlLog
from tests.databases.proxy import Proxy
from tests.drivers.driver_databases import MysqlPlace

if TYPE_CHECKING:
    from tests.databases.mysql import Mysql
    from tests.drivers.conftest import OpenLog


@pytest.fixture
async def proxy(mysql_server: Mysql) -> AsyncIterator[Proxy]:
    async with Proxy(mysql_server.port) as proxy:
        yield proxy


@pytest.fixture
async def database(mysql_server: Mysql, open_log: OpenLog, proxy: Proxy) -> MysqlDatabase:
    log = await open_log(MysqlPlace(mysql_server), port=proxy.port)
    assert isinstance(log, SqlLog)
    assert isinstance(log._database, MysqlDatabase)
    return log._database


async def connection_of(database: MysqlDatabase) -> int:
    [(number,)] = await database.query("Test", "SELECT CONNECTION_ID()")
    return int(number)


async def test_connections_made_since_a_loss_outlive_the_discovery_of_older_ones(
    database: MysqlDatabase, proxy: Proxy
) -> None:
    made: list[int] = []

    async def discover_one_after_the_other() -> None:
        async with database.transaction("Test") as session:
            made.append(await connection_of(database))
            proxy.cut()
            made.append(await connection_of(database))
            await session.run("SELECT 1")

    with pytest.raises(StatementError):
        await discover_one_after_the_other()
    lost, made_since = made
    assert await connection_of(database) == made_since != lost


async def test_a_loss_ends_the_use_of_every_connection_made_before_it(database: MysqlDatabase) -> None:
    async with database.transaction("Test") as session:
        [(kept,)] = await session.run("SELECT CONNECTION_ID()")
        with pytest.raises(StatementError):
            async with database.transaction("Test") as other:
                await other.run("KILL CONNECTION_ID()")
        [(still,)] = await session.run("SELECT CONNECTION_ID()")
        assert still == kept  # the open transaction goes on
    assert await connection_of(database) != kept
