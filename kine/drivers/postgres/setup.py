"""The database and its tables: created where missing, checked where not, migrated when asked to."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from kine.drivers.base import DriverError
from kine.drivers.postgres.connection import connect
from kine.drivers.postgres.failures import translated
from kine.drivers.postgres.statements import SETUP_KEY, TURN_KEY
from kine.drivers.sql import schema
from kine.drivers.sql.failures import StatementError
from kine.drivers.sql.statements import ANY_ROW, MIGRATE

if TYPE_CHECKING:
    from sqlalchemy import Table

    from kine.drivers.postgres.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

_MAINTENANCE_DATABASE = "postgres"
_COLLATION = ' COLLATE "C"'
# KINE_SCHEMA_MIGRATION=1 runs the first, 2 both.
_MIGRATIONS = (
    "ALTER TABLE kine ALTER COLUMN id SET DATA TYPE BIGINT,"
    " ALTER COLUMN create_revision SET DATA TYPE BIGINT, ALTER COLUMN prev_revision SET DATA TYPE BIGINT;"
    " ALTER SEQUENCE kine_id_seq AS BIGINT",
    'ALTER TABLE kine ALTER COLUMN name SET DATA TYPE TEXT COLLATE "C" USING name::TEXT COLLATE "C"',
)


@dataclass(frozen=True, slots=True)
class Server:
    """In what the one we are connected to differs."""

    name: str = "PostgreSQL"
    version: str = ""
    advisory_locks: bool = True  # that end with the transaction
    explicit: bool = False  # whether a transaction of several statements needs BEGIN and COMMIT
    collation: bool = True  # whether it knows "C"
    recovers: bool = True  # whether it can become a replica, and says so


async def prepare(dsn: Dsn, credentials: Provider | None) -> Server:
    """Raises StatementError where trying again may help, else DriverError."""
    connection = await _reach(dsn, credentials)
    try:
        server = await _detect(connection)
        await _create_tables(connection, server)
    except psycopg.Error as error:
        failure = translated(error)
        if error.sqlstate in ("42501", "3F000"):
            raise DriverError(
                f"{failure}; grant the user CREATE on the schema, or let its owner start kine once"
            ) from None
        raise failure from error
    finally:
        connection.pgconn.finish()
    return server


async def _reach(dsn: Dsn, credentials: Provider | None) -> AsyncConnection[Any]:
    try:
        return await connect(dsn, dsn.database, credentials)
    except StatementError as error:
        absent = error.code == "3D000" or "does not exist" in str(error)
        if not absent:
            raise
        await _create_database(dsn, credentials)
        return await connect(dsn, dsn.database, credentials)


async def _create_database(dsn: Dsn, credentials: Provider | None) -> None:
    connection = await connect(dsn, _MAINTENANCE_DATABASE, credentials)
    try:
        await connection.execute(
            sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dsn.database)), prepare=False
        )
        log.info("created the database %s", dsn.database)
    except psycopg.errors.DuplicateDatabase:
        pass
    except psycopg.Error as error:
        if error.sqlstate == "42501":
            raise DriverError(
                f"the database {dsn.database} does not exist and the user may not create it:"
                " create it, or grant the user CREATEDB"
            ) from None
        raise translated(error) from error
    finally:
        connection.pgconn.finish()


async def _detect(connection: AsyncConnection[Any]) -> Server:
    row = await (await connection.execute("SELECT version()", prepare=False)).fetchone()
    told = str(row[0]) if row else ""
    low = told.lower()
    cockroach = "cockroachdb" in low
    name = "CockroachDB" if cockroach else "YugabyteDB" if "-yb-" in low else "PostgreSQL"
    locks = not cockroach
    if locks:
        try:
            await connection.execute(f"SELECT pg_advisory_xact_lock({TURN_KEY ^ 2})", prepare=False)
        except psycopg.errors.Error as error:
            if error.sqlstate not in ("0A000", "42883"):
                raise
            locks = False
    server = Server(
        name,
        told.split(" on ")[0],
        locks,
        explicit=cockroach,
        collation=not cockroach,
        recovers=not cockroach,
    )
    log.info("the database server is %s%s", server.version, "" if locks else "; writers take turns by a row")
    return server


async def _create_tables(connection: AsyncConnection[Any], server: Server) -> None:
    async with connection.transaction():
        if server.name == "CockroachDB":
            # Ids must count up by one: a revision is an id.
            await connection.execute("SET LOCAL serial_normalization = 'sql_sequence'")
        else:
            # Building an index on a large table, or waiting for another instance that does, takes its time.
            await connection.execute(
                "SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)"
            )
        if server.advisory_locks:
            await connection.execute(f"SELECT pg_advisory_xact_lock({SETUP_KEY})")
        tables = await _names(
            connection, "SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false))"
        )
        indexes = await _names(
            connection, "SELECT indexname FROM pg_indexes WHERE schemaname = ANY(current_schemas(false))"
        )
        if "kine" in tables:
            await _check_columns(connection)
        wanted = schema.SHARED if server.advisory_locks else (*schema.SHARED, schema.turn)
        for statement in _missing(wanted, tables, indexes, server):
            await connection.execute(statement)
        if not server.advisory_locks:
            await connection.execute("INSERT INTO kine_turn (id) VALUES (1) ON CONFLICT DO NOTHING")
        await _migrate(connection, server, old_table="key_value" in tables)


def _missing(wanted: Sequence[Table], tables: set[str], indexes: set[str], server: Server) -> list[bytes]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    made = [
        str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))
        for table in wanted
        if table.name not in tables
    ]
    made += [
        str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect))
        for index in schema.indexes("postgresql")
        if index.name not in indexes
    ]
    if not server.collation:
        made = [statement.replace(_COLLATION, "") for statement in made]
    return [statement.encode() for statement in made]


async def _names(connection: AsyncConnection[Any], question: str) -> set[str]:
    return {row[0] for row in await (await connection.execute(question.encode())).fetchall()}


async def _check_columns(connection: AsyncConnection[Any]) -> None:
    found = await _names(
        connection,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'kine'::regclass AND attnum > 0",
    )
    if lacking := {column.name for column in schema.kine.columns} - found:
        raise DriverError(
            f"the database has a table named kine that is not kine's: it lacks {', '.join(sorted(lacking))};"
            " name another database in the endpoint"
        )


async def _migrate(connection: AsyncConnection[Any], server: Server, *, old_table: bool) -> None:
    asked = os.environ.get("KINE_SCHEMA_MIGRATION", "")
    for step in _MIGRATIONS[: int(asked) if asked.isdecimal() else 0]:
        log.info("migrating the schema: this may take a while")
        for statement in step.split(";"):
            text = statement if server.collation else statement.replace(_COLLATION, "")
            await connection.execute(text.encode())
    if old_table and not await (await connection.execute(ANY_ROW.encode())).fetchone():
        cursor = await connection.execute(MIGRATE.encode())
        log.info("moved %d keys from the table key_value of an old release", cursor.rowcount)
