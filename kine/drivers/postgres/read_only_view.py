"""Read-only inspection of a PostgreSQL database; see `kine.drivers.sql.read_only_view`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from kine.drivers.postgres.connection import connect
from kine.drivers.postgres.dsn import Dsn
from kine.drivers.postgres.failures import translated
from kine.drivers.postgres.statements import SEQUENCE
from kine.drivers.sql.failures import StatementError
from kine.identity.base import Provider


class PostgresInspector:
    dialect = "postgresql"

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            rows = await (await self._connection.execute(statement.encode(), prepare=False)).fetchall()
        except psycopg.Error as error:
            raise translated(error).translated() from None
        return [tuple(part.encode() if isinstance(part, str) else part for part in row) for row in rows]

    async def names(self) -> set[str]:
        found = await self.ask(
            "SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false)) UNION ALL"
            " SELECT indexname FROM pg_indexes WHERE schemaname = ANY(current_schemas(false))"
        )
        return {row[0].decode() for row in found}

    async def next_id(self) -> int:
        [(sequence,)] = await self.ask(SEQUENCE)
        if sequence is None:
            return 0
        [(following,)] = await self.ask(f"SELECT last_value + is_called::int FROM {sequence.decode()}")  # noqa: S608
        return int(following)

    async def damage(self) -> list[str]:
        return []

    def stale_log(self) -> str:
        return ""

    async def size(self) -> int:
        [(size,)] = await self.ask("SELECT pg_total_relation_size('kine')")
        return int(size)


@asynccontextmanager
async def open_view(dsn: Dsn, credentials: Provider | None) -> AsyncIterator[PostgresInspector]:
    """Connects, also to a replica, and opens a read-only transaction. Raises DriverError."""
    try:
        try:
            connection = await connect(dsn, dsn.database, credentials, prepare=False, replica=True)
        except StatementError as error:
            raise error.translated() from None
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield PostgresInspector(connection)
        finally:
            connection.pgconn.finish()
    finally:
        if credentials is not None:
            await credentials.close()
