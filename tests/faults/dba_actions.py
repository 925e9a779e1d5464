"""Changes that an administrator, a restore or another program may make to the table under a running kine.

Each is a statement or two that bypass kine. A statement that waits too long for the table's users is given
up.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pymysql

from tests.databases.postgres import Postgres

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases.mysql import Mysql

Inflict = Callable[[int, float], None]

_LEAP = 1_000_000  # ids, a second of the fault's
_BACK = 300  # ids
_PATIENCE = 3  # seconds

_POSTGRES = {
    "set ids back": [
        "SELECT setval('kine_id_seq', greatest(1, (SELECT max(id) FROM kine) - {back}))",
    ],
    "leap of ids": ["SELECT setval('kine_id_seq', (SELECT max(id) FROM kine) + {leap})"],
    "alter table": [
        "ALTER TABLE kine ALTER COLUMN lease TYPE bigint",
        "CREATE INDEX noted ON kine (lease)",
        "DROP INDEX noted",
        "ALTER TABLE kine ALTER COLUMN lease TYPE integer",
    ],
}
_MYSQL = {
    "set ids back": ["ALTER TABLE kine AUTO_INCREMENT = 1"],
    "leap of ids": ["ALTER TABLE kine AUTO_INCREMENT = {next}"],
    "alter table": [
        "ALTER TABLE kine MODIFY COLUMN lease BIGINT",
        "CREATE INDEX noted ON kine (lease)",
        "DROP INDEX noted ON kine",
        "ALTER TABLE kine MODIFY COLUMN lease INTEGER",
    ],
}
_SQLITE = {
    "set ids back": [
        "UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM kine) - {back} WHERE name = 'kine'",
    ],
    "leap of ids": ["UPDATE sqlite_sequence SET seq = seq + {leap} WHERE name = 'kine'"],
    "alter table": ["CREATE INDEX noted ON kine (lease)", "DROP INDEX noted"],
}


def of_server(server: Postgres | Mysql, database: str) -> dict[str, Inflict]:
    def inflict(statements: Sequence[str], seconds: float) -> None:
        with contextlib.suppress(psycopg.Error, pymysql.MySQLError), closing(server.admin(database)) as admin:
            cursor = admin.cursor()
            if isinstance(server, Postgres):
                cursor.execute(f"SET lock_timeout = '{_PATIENCE}s'")
            else:
                cursor.execute(f"SET SESSION lock_wait_timeout = {_PATIENCE}")
            cursor.execute("SELECT max(id) FROM kine")
            [newest] = cursor.fetchone() or (0,)
            for statement in statements:
                with contextlib.suppress(psycopg.Error, pymysql.MySQLError):
                    cursor.execute(_filled(statement, seconds, int(newest or 0)))

    return _each(_POSTGRES if isinstance(server, Postgres) else _MYSQL, inflict)


def of_file(path: Path) -> dict[str, Inflict]:
    def inflict(statements: Sequence[str], seconds: float) -> None:
        with (
            contextlib.suppress(sqlite3.Error),
            closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as connection,
        ):
            for statement in statements:
                connection.execute(_filled(statement, seconds, 0))

    return _each(_SQLITE, inflict)


def _filled(statement: str, seconds: float, newest: int) -> str:
    leap = int(seconds * _LEAP)
    return statement.format(back=_BACK, leap=leap, next=newest + leap)


def _each(kinds: dict[str, list[str]], inflict: Callable[[Sequence[str], float], None]) -> dict[str, Inflict]:
    def of(statements: list[str]) -> Inflict:
        def run(_: int, seconds: float) -> None:
            inflict(statements, seconds)
            time.sleep(seconds)

        return run

    return {kind: of(statements) for kind, statements in kinds.items()}
