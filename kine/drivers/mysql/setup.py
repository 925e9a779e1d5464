"""The database and its tables: created where missing, checked where not, migrated when asked to."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pymysql
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from kine.drivers.base import DriverError
from kine.drivers.mysql.connection import Connection, connect, drop, run
from kine.drivers.mysql.failures import translated
from kine.drivers.sql import schema
from kine.drivers.sql.failures import StatementError
from kine.drivers.sql.statements import ANY_ROW, MIGRATE

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn

log = logging.getLogger(__name__)

_UNKNOWN_DATABASE = "1049"
_DENIED = {1044, 1142, 1370, 1227}
_HAS_ALREADY = {1050, 1061}  # table, index: another instance starts at this moment
_MIGRATIONS = (
    "ALTER TABLE kine MODIFY COLUMN id BIGINT UNSIGNED AUTO_INCREMENT,"
    " MODIFY COLUMN create_revision BIGINT UNSIGNED, MODIFY COLUMN prev_revision BIGINT UNSIGNED",
)


@dataclass(frozen=True, slots=True)
class Server:
    """In what the one we are connected to differs."""

    name: str = "MySQL"
    version: str = ""
    max_packet: int = 1 << 22
    own: bool = True  # MySQL or MariaDB itself, which can become a replica and says so


def prepare(dsn: Dsn, password: str) -> Server:
    """Raises StatementError where trying again may help, else DriverError."""
    connection = _reach(dsn, password)
    try:
        server = _detect(connection)
        _create_tables(connection, server)
    except pymysql.MySQLError as error:
        failure = translated(error)
        if error.args and error.args[0] in _DENIED:
            raise DriverError(f"{failure}; grant the user ALL on the database {dsn.database}") from None
        raise failure from error
    finally:
        drop(connection)
    return server


def _reach(dsn: Dsn, password: str) -> Connection:
    try:
        return connect(dsn, password, database=dsn.database, limit=0)
    except StatementError as error:
        if error.code != _UNKNOWN_DATABASE:
            raise
    connection = connect(dsn, password, database=None, limit=0)
    try:
        quoted = dsn.database.replace("`", "``")
        run(connection, f"CREATE DATABASE IF NOT EXISTS `{quoted}`".encode())
        log.info("created the database %s", dsn.database)
    except pymysql.MySQLError as error:
        if error.args and error.args[0] in _DENIED:
            raise DriverError(
                f"the database {dsn.database} does not exist and the user may not create it:"
                " create it, or grant the user CREATE"
            ) from None
        raise translated(error) from error
    finally:
        drop(connection)
    return connect(dsn, password, database=dsn.database, limit=0)


def _detect(connection: Connection) -> Server:
    [[(version, packet)]] = run(connection, b"SELECT version(), @@max_allowed_packet")
    told = bytes(version).decode(errors="replace")
    name = "MariaDB" if "MariaDB" in told else "TiDB" if "TiDB" in told else "MySQL"
    log.info("the database server is %s %s", name, told)
    return Server(name, told, int(packet), own=name != "TiDB")


def _create_tables(connection: Connection, server: Server) -> None:
    dialect = mysql.dialect()
    tables = _names(
        connection, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    if "kine" in tables:
        _check_columns(connection)
    for table in (*schema.SHARED, schema.turn):
        if table.name not in tables:
            made = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))
            if server.name == "TiDB" and table is schema.kine:
                made += " AUTO_ID_CACHE 1"  # else each of its nodes hands out a range of its own
            run(connection, made.encode())
    have = _names(
        connection,
        "SELECT DISTINCT index_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = 'kine'",
    )
    for index in schema.indexes("mysql"):
        if index.name not in have:
            _unless_there(connection, str(CreateIndex(index).compile(dialect=dialect)))
    run(connection, b"INSERT IGNORE INTO kine_turn (id) VALUES (1)")
    asked = os.environ.get("KINE_SCHEMA_MIGRATION", "")
    for step in _MIGRATIONS[: int(asked) if asked.isdecimal() else 0]:
        log.info("migrating the schema: this may take a while")
        run(connection, step.encode())
    if "key_value" in tables and not run(connection, ANY_ROW.encode())[0]:
        with connection.cursor() as cursor:
            moved = cursor.execute(MIGRATE)
        log.info("moved %d keys from the table key_value of an old release", moved)


def _unless_there(connection: Connection, statement: str) -> None:
    try:
        run(connection, statement.encode())
    except pymysql.MySQLError as error:
        if not error.args or error.args[0] not in _HAS_ALREADY:
            raise


def _names(connection: Connection, question: str) -> set[str]:
    return {bytes(row[0]).decode() for row in run(connection, question.encode())[0]}


def _check_columns(connection: Connection) -> None:
    found = _names(
        connection,
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = 'kine'",
    )
    if lacking := {column.name for column in schema.kine.columns} - found:
        raise DriverError(
            f"the database has a table named kine that is not kine's: it lacks {', '.join(sorted(lacking))};"
            " name another database in the endpoint"
        )
