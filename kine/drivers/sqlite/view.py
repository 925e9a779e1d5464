"""See `kine.drivers.sql.view`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from kine.drivers.base import DriverError, Options
from kine.drivers.sqlite.dsn import parse


class SqliteView:
    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._ask, statement)

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise DriverError(f"SQLite: {error}") from error

    async def names(self) -> set[str]:
        return {row[0].decode() for row in await self.ask("SELECT name FROM sqlite_master")}

    async def damage(self) -> list[str]:
        try:
            found = [row[0].decode() for row in await self.ask("PRAGMA integrity_check(20)")]
        except DriverError as error:  # damage so bad that it cannot be listed
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return [str(error.__cause__)]
        return [] if found == ["ok"] else found

    async def size(self) -> int:
        [(pages,)] = await self.ask("PRAGMA page_count")
        [(page_size,)] = await self.ask("PRAGMA page_size")
        return int(pages * page_size)


@asynccontextmanager
async def view(endpoint: str, options: Options) -> AsyncIterator[SqliteView]:
    """Raises DriverError."""
    path = parse(endpoint).path
    if not os.path.exists(path):  # noqa: ASYNC240 - a local file
        raise DriverError(f"there is no file {path}; name the database in --endpoint")
    try:
        connection = sqlite3.connect(
            f"file:{quote(os.path.abspath(path))}?mode=ro",  # noqa: ASYNC240
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.text_factory = bytes
        connection.execute("BEGIN")
    except sqlite3.Error as error:
        raise DriverError(f"SQLite: {error}") from None
    try:
        yield SqliteView(connection)
    finally:
        connection.close()
