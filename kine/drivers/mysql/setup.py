"""Creation, checks and migration of the database and its tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pymysql

from kine.drivers.base import DriverError
from kine.drivers.mysql.connection import Connection, close, connect, run
from kine.drivers.mysql.failures import translated
from kine.drivers.mysql.privileges import grant, is_denied, lacking_rights, quoted
from kine.drivers.mysql.safety_settings import check_tables, warn_of_weak_durability
from kine.drivers.sql import int32_ids, tables
from kine.drivers.sql.failures import Kind, StatementError
from kine.drivers.sql.statements import ANY_ROW, MIGRATE

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn

log = logging.getLogger(__name__)

_UNKNOWN_DATABASE = "1049"
_NO_ACCESS = "1044"
_HAS_ALREADY = {1050, 1061}  # table or index exists: another instance is starting too
_NO_TRANSACTIONS = {b"MyISAM", b"Aria", b"MEMORY", b"CSV", b"ARCHIVE", b"BLACKHOLE", b"MRG_MYISAM"}
_TURN_ROW = b"INSERT IGNORE INTO kine_turn (id) VALUES (1)"
_MIGRATIONS = (
    "ALTER TABLE kine MODIFY COLUMN id BIGINT UNSIGNED AUTO_INCREMENT,"
    " MODIFY COLUMN create_revision BIGINT UNSIGNED, MODIFY COLUMN prev_revision BIGINT UNSIGNED",
)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The properties of the connected server in which servers differ."""

    name: str = "MySQL"
    version: str = ""
    max_packet: int = 1 << 22
    max_storable_id: int = 0  # the highest id the table can hold, 0: unknown
    own: bool = True  # MySQL or MariaDB itself, whose read_only shows whether it is a replica


def prepare(dsn: Dsn, password: str) -> ServerInfo:
    """Connects, creates and checks everything, and returns the server's properties.

    Raises StatementError where a retry may help, else DriverError.
    """
    connection = _reach(dsn, password)
    try:
        _check_charset(connection, dsn)
        server = _detect(connection)
        if dsn.max_packet:
            server = replace(server, max_packet=min(server.max_packet, dsn.max_packet))
        server = replace(server, max_storable_id=_create_tables(connection, server, dsn.database))
        check_tables(connection)
        warn_of_weak_durability(connection)
    except pymysql.MySQLError as error:
        failure = translated(error, advise=False)
        if is_denied(error):
            everything = grant(connection, ["ALL"], dsn.database)
            raise StatementError(
                failure.kind, failure.code, f"{failure}; grant the user ALL on the database: {everything}"
            ) from None
        raise failure from error
    finally:
        close(connection)
    return server


def _reach(dsn: Dsn, password: str) -> Connection:
    try:
        return connect(dsn, password, database=dsn.database, limit=0)
    except StatementError as error:
        if error.code == _NO_ACCESS:  # the database may not exist: the server does not say
            raise _no_access(dsn, password, error) from None
        if error.code != _UNKNOWN_DATABASE:
            raise
    connection = connect(dsn, password, database=None, limit=0)
    try:
        run(connection, f"CREATE DATABASE IF NOT EXISTS {quoted(dsn.database)}".encode())
        log.info("created the database %s", dsn.database)
    except pymysql.MySQLError as error:
        if is_denied(error):
            raise StatementError(
                Kind.REFUSED,
                str(error.args[0]),
                f"the database {dsn.database} does not exist and the user may not create it: run"
                f" CREATE DATABASE {quoted(dsn.database)}; {grant(connection, ['ALL'], dsn.database)}",
            ) from None
        raise translated(error) from error
    finally:
        close(connection)
    return connect(dsn, password, database=dsn.database, limit=0)


def _check_charset(connection: Connection, dsn: Dsn) -> None:
    """Raises StatementError if the server accepts none of the endpoint's character sets.

    Like the Go driver, it tries them in order. The connection uses utf8mb4 in any case.
    """
    if not dsn.charsets and not dsn.collation:
        return
    collate = f" COLLATE {dsn.collation}" if dsn.collation else ""
    asked = [f"SET NAMES {charset}{collate}" for charset in dsn.charsets]
    failure = None
    for statement in asked or [f"SET SESSION collation_connection = {dsn.collation}"]:
        try:
            run(connection, f"{statement}; SET NAMES utf8mb4".encode())
        except pymysql.MySQLError as error:
            failure = translated(error, connecting=True)
            if not failure.permanent:
                raise
        else:
            return
    assert failure is not None
    raise failure


def _no_access(dsn: Dsn, password: str, error: StatementError) -> StatementError:
    connection = connect(dsn, password, database=None, limit=0)
    try:
        everything = grant(connection, ["ALL"], dsn.database)
    except pymysql.MySQLError:
        return error
    finally:
        close(connection)
    return StatementError(error.kind, error.code, f"{error}: {everything}")


def _detect(connection: Connection) -> ServerInfo:
    [[(version, packet)]] = run(connection, b"SELECT version(), @@max_allowed_packet")
    told = bytes(version).decode(errors="replace")
    name = "MariaDB" if "MariaDB" in told else "TiDB" if "TiDB" in told else "MySQL"
    log.info("the database server is %s %s", name, told)
    return ServerInfo(name, told, int(packet), own=name != "TiDB")


def _create_tables(connection: Connection, server: ServerInfo, database: str) -> int:
    """Creates, checks and migrates the tables. Returns the highest id that `kine` can hold."""
    found = _names(
        connection, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    present = [table for table in (*tables.SHARED, tables.TURN) if table in found]
    lacking = lacking_rights(connection, present) if present else {}
    if "kine" in found and "SELECT" not in lacking.get("kine", ()):  # without SELECT, its columns are hidden
        _check_columns(connection)
        _check_engine(connection)
    _create(connection, _missing(found, server), found, lacking, database)
    have = _names(
        connection,
        "SELECT DISTINCT index_name FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = 'kine'",
    )
    for index, statement in tables.INDEXES["mysql"].items():
        if index not in have:
            _unless_there(connection, statement)
    run(connection, _TURN_ROW)
    asked = os.environ.get("KINE_SCHEMA_MIGRATION", "")
    for step in _MIGRATIONS[: int(asked) if asked.isdecimal() else 0]:
        log.info("migrating the schema: this may take a while")
        run(connection, step.encode())
    [[(highest, newest)]] = run(connection, int32_ids.QUESTION["mysql"].encode())
    if warning := int32_ids.warning(highest, newest):
        log.warning("%s", warning)
    if "key_value" in found and not run(connection, ANY_ROW.encode())[0]:
        with connection.cursor() as cursor:
            moved = cursor.execute(MIGRATE)
        log.info("moved %d keys from the table key_value of an old release", moved)
    return int(highest or 0)


def _missing(found: set[str], server: ServerInfo) -> list[bytes]:
    made = []
    for table in (*tables.SHARED, tables.TURN):
        if table not in found:
            statement = tables.TABLES["mysql"][table]
            if server.name == "TiDB" and table == tables.KINE:
                statement += " AUTO_ID_CACHE 1"  # without it, each node allots ids from its own range
            made.append(statement.encode())
    if tables.TURN not in found:
        made.append(_TURN_ROW)
    return made


def _create(
    connection: Connection,
    statements: list[bytes],
    found: set[str],
    lacking: Mapping[str, list[str]],
    database: str,
) -> None:
    """Creates the missing tables.

    If the user lacks a privilege, raises StatementError with the statements for another user to run once.
    """
    grants = [grant(connection, rights, database, table) for table, rights in lacking.items()]
    try:
        for statement in statements:
            run(connection, statement)
    except pymysql.MySQLError as error:
        if "kine" not in found or not is_denied(error):
            raise
        once = [f"{tables.in_one_line(statement)};" for statement in statements]
        added = [table for table in (*tables.SHARED, tables.TURN) if table not in found]
        grants += [grant(connection, tables.RIGHTS, database, table) for table in added]
        raise StatementError(
            Kind.REFUSED,
            str(error.args[0]),
            f"{translated(error, advise=False)}; let a user who may create tables run these statements once:"
            f" USE {quoted(database)}; {' '.join([*once, *grants])}",
        ) from None
    if grants:
        told = "; ".join(f"{', '.join(rights)} on {table}" for table, rights in lacking.items())
        raise StatementError(
            Kind.REFUSED, "1142", f"the user lacks {told} (error 1142); run {' '.join(grants)}"
        )


def _check_engine(connection: Connection) -> None:
    [[(engine,)]] = run(
        connection,
        b"SELECT engine FROM information_schema.tables"
        b" WHERE table_schema = DATABASE() AND table_name = 'kine'",
    )
    if engine in _NO_TRANSACTIONS:
        raise DriverError(
            f"the table kine is in the storage engine {engine.decode()}, which has no transactions: run"
            " ALTER TABLE kine ENGINE = InnoDB"
        )


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
    if lacking := tables.COLUMNS - found:
        raise DriverError(
            f"the database has a table named kine that is not kine's: it lacks {', '.join(sorted(lacking))};"
            " name another database in the endpoint"
        )
