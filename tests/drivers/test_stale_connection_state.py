"""State that a connection accumulates, which must not make it fail: prepared plans, roles, search path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kine.drivers.mysql.connection import run
from kine.drivers.mysql.database import MysqlDatabase
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.postgres.pipeline import Statement
from kine.drivers.sql.log import SqlLog
from tests.drivers.row_shorthand import created, updated, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.drivers.base import Log
    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import GoWriter, Place

DDL = {
    "sqlite": ("ALTER TABLE kine ADD COLUMN note TEXT", "ALTER TABLE kine DROP COLUMN note"),
    "postgres": (
        "ALTER TABLE kine ALTER COLUMN id SET DATA TYPE INTEGER",
        "ALTER TABLE kine ALTER COLUMN id SET DATA TYPE BIGINT",
        "ALTER TABLE kine ALTER COLUMN name SET DATA TYPE VARCHAR(2000)",
        "ALTER TABLE kine_lease ALTER COLUMN ttl SET DATA TYPE INTEGER",
        "ALTER TABLE kine_writer ALTER COLUMN head SET DATA TYPE INTEGER",
    ),
    "mysql": (
        "ALTER TABLE kine MODIFY COLUMN id INT UNSIGNED AUTO_INCREMENT",
        "ALTER TABLE kine MODIFY COLUMN id BIGINT UNSIGNED AUTO_INCREMENT",
        "ALTER TABLE kine ADD COLUMN note TEXT",
    ),
}


async def everything(log: Log, number: int) -> None:
    """Runs each kind of statement several times, so that all of them are prepared."""
    for turn in range(3):
        name = b"/%d/%d/" % (number, turn)
        head = await log.newest()
        [ids] = await log.append([write(created(name + b"one"))], head)
        assert ids
        [ids, more] = await log.append(
            [write(updated(name + b"one", ids[0], ids[0])), write(created(name + b"two", lease=7, ttl=60))],
            ids[0],
        )
        assert ids
        assert more
        [pair] = await log.append([write(created(name + b"three"), created(name + b"four"))], more[0])
        assert pair
        assert len(await log.values([*ids, *more, *pair])) == 4
        assert len((await log.tail(head, 100)).rows) == 5
        assert await log.grant(100 * number + turn + 1, 60)
        assert (await log.lease(100 * number + turn + 1)) is not None
        await log.compact(pair[-1], [])
        assert [row async for block in log.load(pair[0] - 1) for row in block]


async def test_the_schema_is_changed_under_the_connections(
    place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter]
) -> None:
    if place.kind == "nats":
        pytest.skip("no schema")
    log = await open_log(place)
    await log.append([write(created(b"compact_rev_key", b""))], 0)
    await everything(log, 0)
    other = go(place)
    for number, statement in enumerate(DDL[place.kind], 1):
        other.run(statement)
        await everything(log, number)


async def test_one_change_of_the_schema_ends_no_preparing(
    place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter], caplog: pytest.LogCaptureFixture
) -> None:
    if place.kind != "postgres":
        pytest.skip("prepares no statements that are refused so")
    caplog.set_level("INFO")
    log = await open_log(place)
    await log.append([write(created(b"compact_rev_key", b""))], 0)
    await everything(log, 0)
    go(place).run("ALTER TABLE kine ALTER COLUMN lease TYPE BIGINT")
    await everything(log, 1)
    assert "preparing no more" not in caplog.text


SPOILED = {
    "postgres": (
        "SET search_path TO nowhere",
        "SET default_transaction_read_only = on",
        "SET ROLE pg_monitor",
    ),
    "mysql": ("USE mysql", "SET SESSION TRANSACTION READ ONLY"),
}


async def spoil(log: Log, statement: str) -> None:
    """Runs the statement on every connection of the log."""
    assert isinstance(log, SqlLog)
    database = log._database
    if isinstance(database, MysqlDatabase):
        async with database._checkout("Test") as call:
            await call(run, statement.encode())
        return
    assert isinstance(database, PostgresDatabase)
    for line in filter(None, (database._writing, database._reading)):
        await (await line.wire()).ask([(Statement(b"", statement.encode()), ())], prepared=False)
    async with database._checkout("Test", 60) as connection:
        await connection.execute(statement.encode())


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_connection_is_not_what_it_was(shared_place: Place, open_log: OpenLog, number: int) -> None:
    statements = SPOILED[shared_place.kind]
    if number >= len(statements):
        pytest.skip("that is all")
    log = await open_log(shared_place)
    await log.append([write(created(b"compact_rev_key", b""))], 0)
    await everything(log, 0)
    await spoil(log, statements[number])

    await asyncio.sleep(0)
    await everything(log, 1)
