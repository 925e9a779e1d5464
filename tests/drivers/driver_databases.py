"""Databases for one test, by kind: the endpoint, and a connection that bypasses kine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.databases.mysql import Mysql
from tests.databases.nats import Nats
from tests.databases.postgres import Postgres

_memory_names = count(1)
_INSERT = (
    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, (SELECT value FROM kine WHERE id = ?) AS old_value"
)


class GoWriter:
    """Writes rows with Go kine's own statement, one row per transaction unless specified otherwise."""

    def __init__(self, connection: Any, mark: str, returning: bool) -> None:
        self.connection = connection
        self._mark = mark
        self._returning = returning

    def run(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        cursor = self.connection.cursor()
        cursor.execute(self.marked(statement), parameters)
        return list(cursor.fetchall()) if cursor.description else []

    def marked(self, statement: str) -> str:
        return statement.replace("?", self._mark)

    def create(self, name: str, value: bytes = b"go", prev: int = 0, ttl: int = 0) -> int:
        return self._insert(name, 1, 0, 0, prev, ttl, value)

    def update(self, name: str, prev: int, create_revision: int, value: bytes = b"go") -> int:
        return self._insert(name, 0, 0, create_revision, prev, 0, value)

    def delete(self, name: str, prev: int, create_revision: int, value: bytes = b"go") -> int:
        return self._insert(name, 0, 1, create_revision, prev, 0, value)

    def _insert(self, *row: object) -> int:
        cursor = self.connection.cursor()
        text = _INSERT.replace("?", self._mark)
        cursor.execute(text + " RETURNING id" if self._returning else text, (*row, row[4]))
        return int(cursor.fetchone()[0]) if self._returning else int(cursor.lastrowid)

    def begin(self) -> None:
        self.run("BEGIN")

    def commit(self) -> None:
        self.run("COMMIT")

    def rollback(self) -> None:
        self.run("ROLLBACK")

    def close(self) -> None:
        self.connection.close()


class Place(Protocol):
    kind: str

    def endpoint(self, parameters: str = "", port: int | None = None) -> str: ...

    def go(self) -> GoWriter: ...


class SqlitePlace:
    kind = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.db"

    def endpoint(self, parameters: str = "", port: int | None = None) -> str:
        return f"sqlite://{self._path}"

    def go(self) -> GoWriter:
        return GoWriter(sqlite3.connect(self._path, isolation_level=None), "?", False)


class MemoryPlace:
    kind = "memory"

    def __init__(self) -> None:
        self._name = f"place-{next(_memory_names)}"

    def endpoint(self, parameters: str = "", port: int | None = None) -> str:
        return f"memory://{self._name}"

    def go(self) -> GoWriter:
        pytest.skip("Go kine has no such log")


class PostgresPlace:
    kind = "postgres"

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.database = server.new_database()

    def endpoint(self, parameters: str = "", port: int | None = None) -> str:
        return self.server.endpoint(self.database, port=port, parameters=parameters)

    def go(self) -> GoWriter:
        return GoWriter(self.server.admin(self.database), "%s", True)


class MysqlPlace:
    kind = "mysql"

    def __init__(self, server: Mysql) -> None:
        self.server = server
        self.database = server.new_database()

    def endpoint(self, parameters: str = "", port: int | None = None) -> str:
        return self.server.endpoint(self.database, port=port, parameters=parameters)

    def go(self) -> GoWriter:
        return GoWriter(self.server.admin(self.database), "%s", False)


class NatsPlace:
    kind = "nats"

    def __init__(self, server: Nats) -> None:
        self.server = server
        self.bucket = server.new_bucket()

    def endpoint(self, parameters: str = "", port: int | None = None) -> str:
        return self.server.endpoint(self.bucket, port=port, parameters=parameters)

    def go(self) -> GoWriter:
        pytest.skip("Go kine's messages are in test_nats.py")


def lock_timeout(place: Place, seconds: int) -> str:
    """The endpoint's parameter that limits the wait for other transactions."""
    return f"innodb_lock_wait_timeout={seconds}" if place.kind == "mysql" else f"lock_timeout={seconds}s"
