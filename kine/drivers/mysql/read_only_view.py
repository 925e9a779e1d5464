"""Read-only inspection of a MySQL database; see `kine.drivers.sql.read_only_view`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pymysql

from kine.drivers.base import Options, UnavailableError
from kine.drivers.mysql.connection import Connection, close, connect, next_id, run
from kine.drivers.mysql.dsn import parse
from kine.drivers.mysql.failures import translated
from kine.drivers.sql.failures import StatementError
from kine.identity import provider
from kine.identity.base import IdentityError

_BEGIN = (
    b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
)


class MysqlInspector:
    dialect = "mysql"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            [rows] = await asyncio.to_thread(run, self._connection, statement.encode())
        except pymysql.MySQLError as error:
            raise translated(error).translated() from None
        return rows

    async def names(self) -> set[str]:
        found = await self.ask(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = database() UNION ALL"
            " SELECT index_name FROM information_schema.statistics WHERE table_schema = database()"
        )
        return {row[0].decode() for row in found}

    async def next_id(self) -> int:
        [(_, made)] = await self.ask("SHOW CREATE TABLE kine")
        return next_id(made)

    async def damage(self) -> list[str]:
        return []

    def stale_log(self) -> str:
        return ""

    async def size(self) -> int:
        [(size,)] = await self.ask(
            "SELECT cast(coalesce(sum(data_length + index_length), 0) AS signed)"
            " FROM information_schema.tables WHERE table_schema = database() AND table_name LIKE 'kine%'"
        )
        return int(size)


@asynccontextmanager
async def inspect(endpoint: str, options: Options) -> AsyncIterator[MysqlInspector]:
    """Connects and opens a read-only transaction. Raises DriverError."""
    dsn = parse(endpoint, options)
    password = dsn.password
    if options.identity_provider:
        issuer = provider(options.identity_provider, options.identity_timeout)
        try:
            password = await issuer.credential(dsn.host, dsn.port, dsn.user) or ""
        except IdentityError as error:
            raise UnavailableError(str(error)) from None
        finally:
            await issuer.close()
    try:
        connection = await asyncio.to_thread(connect, dsn, password, database=dsn.database, limit=0)
    except StatementError as error:
        raise error.translated() from None
    try:
        await asyncio.to_thread(run, connection, _BEGIN)
        yield MysqlInspector(connection)
    finally:
        close(connection)
