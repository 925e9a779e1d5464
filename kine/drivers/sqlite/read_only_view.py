"""Read-only inspection of an SQLite file; see `kine.drivers.sql.read_only_view`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kine.drivers.base import DriverError, Options
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.failures import no_access, stale_log, translated
from kine.drivers.sqlite.integer_names import NUMBER
from kine.drivers.sqlite.open_file import disk_size
from kine.drivers.sqlite.read_only_connection import connect_to_read


class SqliteInspector:
    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._ask, statement)

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    async def names(self) -> set[str]:
        return {row[0].decode() for row in await self.ask("SELECT name FROM sqlite_master")}

    async def next_id(self) -> int:
        rows = await self.ask("SELECT seq FROM sqlite_sequence WHERE name = 'kine'")
        return int(rows[0][0]) + 1 if rows else 1

    async def damage(self) -> list[str]:
        try:
            found = [row[0].decode() for row in await self.ask("PRAGMA integrity_check(1000)")]
        except DriverError as error:  # so damaged that the check itself fails
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return [str(error.__cause__)]
        return [text for text in found if text not in ("ok", NUMBER)][:20]  # numbers: a rule of kine check

    async def size(self) -> int:
        return disk_size(self._path)

    def stale_log(self) -> str:
        return stale_log(self._path)


@asynccontextmanager
async def inspect(endpoint: str, options: Options) -> AsyncIterator[SqliteInspector]:
    """Opens the file for inspection. Raises DriverError."""
    dsn = parse(endpoint)
    path = dsn.path
    if dsn.memory:
        raise DriverError("a database in memory is only in the server that has made it; look into a file")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DriverError(f"there is no file {path}; name the database in --endpoint") from None
    except OSError as error:
        raise DriverError(f"cannot read {path}: {no_access(path) or error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise DriverError(f"{path} is a directory; name a file in the endpoint")
    try:
        connection = connect_to_read(path)
        connection.text_factory = bytes
        connection.execute("BEGIN")
    except sqlite3.Error as error:
        raise translated(error, path) from None
    try:
        yield SqliteInspector(connection, path)
    finally:
        connection.close()
