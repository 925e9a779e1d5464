"""Creation, checks and migration of the database and its tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, sql

from kine.drivers.base import DriverError
from kine.drivers.postgres.connection import connect
from kine.drivers.postgres.failures import translated
from kine.drivers.postgres.privileges import (
    closed_schema,
    identifier,
    in_schema,
    missing_grants,
    user_and_schema,
)
from kine.drivers.postgres.safety_settings import check_tables, serializes
from kine.drivers.postgres.statements import SEQUENCE, SETUP_KEY, TURN_KEY
from kine.drivers.sql import int32_ids, tables
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.statements import ANY_ROW, MIGRATE

if TYPE_CHECKING:
    from kine.drivers.postgres.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

_NO_SCHEMA = "3F000"
_MAINTENANCE_DATABASE = "postgres"
_COLLATION = ' COLLATE "C"'
# KINE_SCHEMA_MIGRATION=1 runs the first, 2 runs both.
_MIGRATIONS = (
    "ALTER TABLE kine ALTER COLUMN id SET DATA TYPE BIGINT,"
    " ALTER COLUMN create_revision SET DATA TYPE BIGINT, ALTER COLUMN prev_revision SET DATA TYPE BIGINT;"
    " ALTER SEQUENCE kine_id_seq AS BIGINT",
    'ALTER TABLE kine ALTER COLUMN name SET DATA TYPE TEXT COLLATE "C" USING name::TEXT COLLATE "C"',
)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The properties of the connected server in which servers differ."""

    name: str = "PostgreSQL"
    version: str = ""
    advisory_locks: bool = True  # that end with the transaction
    explicit: bool = False  # whether a transaction of several statements needs BEGIN and COMMIT
    # READ COMMITTED: a statement must see what was committed while the transaction waited for its turn.
    begin: str = "BEGIN ISOLATION LEVEL READ COMMITTED"
    collation: bool = True  # whether it has the collation "C"
    max_storable_id: int = 0  # the highest id the table can hold, 0: unknown
    recovers: bool = True  # whether it can become a replica and has pg_is_in_recovery()
    sequence: str = "kine_id_seq"  # the sequence of ids, quoted where it must be


async def prepare(dsn: Dsn, credentials: Provider | None) -> ServerInfo:
    """Connects, creates and checks everything, and returns the server's properties.

    Raises StatementError where a retry may help, else DriverError.
    """
    connection = await _reach(dsn, credentials)
    try:
        server = await _detect(connection)
        if dsn.encoding:
            await _check_encoding(connection, dsn.encoding)
        server = replace(server, max_storable_id=await _create_tables(connection, server))
        server = await _with_sequence(connection, server)
        if server.name != "CockroachDB":
            await check_tables(connection)
    except psycopg.Error as error:
        failure = translated(error)
        if error.sqlstate == _NO_SCHEMA:
            advice = await _schema_advice(connection)
            raise StatementError(failure.kind, failure.code, f"{failure}; {advice}") from None
        raise failure from error
    finally:
        connection.pgconn.finish()
    return server


async def _check_encoding(connection: AsyncConnection[Any], encoding: str) -> None:
    """Raises StatementError if the server does not know the encoding.

    A known encoding has no effect, as kine's statements and keys are UTF-8.
    """
    row = await (await connection.execute("SELECT pg_char_to_encoding(%s)", (encoding,))).fetchone()
    if row is None or row[0] < 0:
        raise StatementError(
            Kind.AWAY,
            "22023",
            f"the server has no encoding {encoding[:40]!r}: correct or remove client_encoding in the"
            " endpoint",
            permanent=True,
        )
    log.warning("client_encoding=%s in the endpoint has no effect: kine reads and writes UTF-8", encoding)


async def _schema_advice(connection: AsyncConnection[Any]) -> str:
    said = "search_path names no schema that is there and that the user may use"
    try:
        user, _ = await user_and_schema(connection)
        schema = await closed_schema(connection)
    except psycopg.Error:
        user = schema = ""
    if schema:
        return f"{said}: let the owner run GRANT CREATE, USAGE ON SCHEMA {schema} TO {user};"
    return f"{said}: create one, or correct search_path in the endpoint or of the user"


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
        log.info("created the database %s", dsn.shown)
    except psycopg.errors.DuplicateDatabase:
        pass
    except psycopg.Error as error:
        if error.sqlstate == "42501":
            name, user = identifier(dsn.database), identifier(connection.info.user)
            raise StatementError(
                Kind.REFUSED,
                "42501",
                f"the database {dsn.shown} does not exist and the user may not create it: run"
                f" CREATE DATABASE {name} OWNER {user}; or ALTER ROLE {user} CREATEDB;",
            ) from None
        raise translated(error) from error
    finally:
        connection.pgconn.finish()


async def _detect(connection: AsyncConnection[Any]) -> ServerInfo:
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
    server = ServerInfo(
        name,
        told.split(" on ")[0],
        locks,
        explicit=cockroach or await serializes(connection),
        begin="BEGIN" if cockroach else "BEGIN ISOLATION LEVEL READ COMMITTED",
        collation=not cockroach,
        recovers=not cockroach,
    )
    log.info("the database server is %s%s", server.version, "" if locks else "; writers take turns by a row")
    return server


async def _create_tables(connection: AsyncConnection[Any], server: ServerInfo) -> int:
    """Creates and migrates the tables. Returns the highest id that `kine` can hold, 0 if not known."""
    async with connection.transaction():
        if server.name == "CockroachDB":
            # Ids must count up by one: a revision is an id.
            await connection.execute("SET LOCAL serial_normalization = 'sql_sequence'")
        else:
            # No timeouts: building an index on a large table, or waiting for another instance's, takes long.
            await connection.execute(
                "SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)"
            )
            await connection.execute(
                "SELECT set_config(name, 'heap', true) FROM pg_settings"
                " WHERE name = 'default_table_access_method'"
            )
        if server.advisory_locks:
            await connection.execute(f"SELECT pg_advisory_xact_lock({SETUP_KEY})")
        found = await _names(
            connection, "SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false))"
        )
        indexes = await _names(
            connection, "SELECT indexname FROM pg_indexes WHERE schemaname = ANY(current_schemas(false))"
        )
        if "kine" in found:
            await _check_columns(connection)
        wanted = tables.SHARED if server.advisory_locks else (*tables.SHARED, tables.TURN)
        await _create(connection, wanted, found, indexes, server)
        if not server.advisory_locks:
            await connection.execute("INSERT INTO kine_turn (id) VALUES (1) ON CONFLICT DO NOTHING")
        await _migrate(connection, server, old_table="key_value" in found)
        return await _highest_id(connection) if server.name == "PostgreSQL" else 0


async def _highest_id(connection: AsyncConnection[Any]) -> int:
    cursor = await connection.execute(int32_ids.QUESTION["postgresql"].encode())
    row = await cursor.fetchone()
    if row is None:
        return 0
    highest, newest = row
    if warning := int32_ids.warning(highest, newest):
        log.warning("%s", warning)
    return int(highest or 0)


async def _with_sequence(connection: AsyncConnection[Any], server: ServerInfo) -> ServerInfo:
    """Adds the name of the id column's sequence, and makes it count up by one.

    Raises DriverError if there is none: a copied table may have lost it.
    """
    if server.name == "CockroachDB":
        return server
    row = await (await connection.execute(SEQUENCE.encode())).fetchone()
    if row is None or row[0] is None:
        raise DriverError(
            "the column id of the table kine has no sequence to give ids, as after a copy of the table; run"
            " CREATE SEQUENCE kine_id_seq OWNED BY kine.id;"
            " SELECT setval('kine_id_seq', coalesce((SELECT max(id) FROM kine), 0) + 1, false);"
            " ALTER TABLE kine ALTER COLUMN id SET DEFAULT nextval('kine_id_seq');"
        )
    name = str(row[0])
    cursor = await connection.execute(
        "SELECT seqincrement, seqcache, seqcycle FROM pg_sequence WHERE seqrelid = %s::regclass", (name,)
    )
    counts = await cursor.fetchone()
    if counts is not None and tuple(counts) != (1, 1, False):
        # Ids must be consecutive: a reader waits for each missing one.
        await _as_owner(connection, f"ALTER SEQUENCE {name} INCREMENT 1 CACHE 1 NO CYCLE")
        log.info("the sequence %s now counts up by one, for all connections alike", name)
    return replace(server, sequence=name)


def _missing(wanted: Sequence[str], found: set[str], indexes: set[str], server: ServerInfo) -> list[bytes]:
    made = [tables.TABLES["postgresql"][table] for table in wanted if table not in found]
    made += [statement for index, statement in tables.INDEXES["postgresql"].items() if index not in indexes]
    if not server.collation:
        made = [statement.replace(_COLLATION, "") for statement in made]
    return [statement.encode() for statement in made]


async def _create(
    connection: AsyncConnection[Any],
    wanted: Sequence[str],
    found: set[str],
    indexes: set[str],
    server: ServerInfo,
) -> None:
    """Creates the missing tables and indexes.

    If the user lacks a privilege, raises StatementError with the statements for the owner to run once.
    """
    user, schema = await user_and_schema(connection)
    present = [table for table in wanted if table in found]
    lacking, grants = await missing_grants(connection, present, user)
    statements = _missing(wanted, found, indexes, server)
    try:
        for statement in statements:
            await connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(translated(error, advise=False))
        if present:  # the tables of Go kine, and a user who may not create any
            once = [tables.in_one_line(statement) for statement in statements]
            if added := ", ".join(table for table in wanted if table not in found):
                grants.append(f"GRANT {', '.join(tables.RIGHTS)} ON {added} TO {user}")
            run = in_schema([*once, *grants], schema)
            text = f"let the owner of the database run these statements once: {run}"
        else:
            text = f"grant the user CREATE on the schema: GRANT CREATE, USAGE ON SCHEMA {schema} TO {user};"
        raise StatementError(Kind.REFUSED, "42501", f"{reason}; {text}") from None
    if grants:
        raise StatementError(
            Kind.REFUSED,
            "42501",
            f"the user {user} lacks {'; '.join(lacking)}; let the owner of the tables run:"
            f" {in_schema(grants, schema)}",
        )


async def _names(connection: AsyncConnection[Any], question: str) -> set[str]:
    return {row[0] for row in await (await connection.execute(question.encode())).fetchall()}


async def _check_columns(connection: AsyncConnection[Any]) -> None:
    found = await _names(
        connection,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'kine'::regclass AND attnum > 0",
    )
    if lacking := tables.COLUMNS - found:
        raise DriverError(
            f"the database has a table named kine that is not kine's: it lacks {', '.join(sorted(lacking))};"
            " name another database in the endpoint"
        )


async def _migrate(connection: AsyncConnection[Any], server: ServerInfo, *, old_table: bool) -> None:
    asked = os.environ.get("KINE_SCHEMA_MIGRATION", "")
    for step in _MIGRATIONS[: int(asked) if asked.isdecimal() else 0]:
        log.info("migrating the schema: this may take a while")
        for statement in step.split(";"):
            text = statement if server.collation else statement.replace(_COLLATION, "")
            await _as_owner(connection, text.strip())
    if old_table and not await (await connection.execute(ANY_ROW.encode())).fetchone():
        grant = f"GRANT SELECT ON key_value TO {identifier(connection.info.user)}"
        cursor = await _as_owner(connection, MIGRATE, instead=grant)
        log.info("moved %d keys from the table key_value of an old release", cursor.rowcount)


async def _as_owner(
    connection: AsyncConnection[Any], statement: str, *, instead: str = ""
) -> psycopg.AsyncCursor[Any]:
    """Runs a statement that only an owner may run.

    Otherwise raises StatementError, with that statement or `instead` for the owner to run.
    """
    try:
        return await connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise StatementError(
            Kind.REFUSED,
            "42501",
            f"{translated(error, advise=False)}; let the owner run {instead or statement};",
        ) from None
