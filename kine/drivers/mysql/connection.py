"""A blocking connection to MySQL or MariaDB: opening it, running statements, quoting values."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pymysql
from pymysql.constants import CLIENT

from kine.drivers.base import InvalidKeyError
from kine.drivers.mysql import pymysql_internals
from kine.drivers.mysql.dsn import SESSION
from kine.drivers.mysql.failures import translated
from kine.drivers.reserved_row_names import COMPACT_REV_KEY, COMPACT_REV_ROW
from kine.drivers.sql.database import idle_limit
from kine.drivers.sql.failures import Kind, StatementError

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn

log = logging.getLogger(__name__)

REPLICA = "the server is a read-only replica; waiting for one that takes writes"
_STEPS = (
    "the server counts ids up by %d, whatever a session sets, as Galera does: revisions would be mixed up;"
    " set wsrep_auto_increment_control=OFF and auto_increment_increment=1 on every node"
)
MAX_NAME = 630  # bytes, the width of Go kine's column
# kine's own rows. A statement that names one also changes any name that MySQL's collation finds equal.
_OWN = (COMPACT_REV_KEY, COMPACT_REV_ROW)
_NEXT_ID = re.compile(rb"\bAUTO_INCREMENT=(\d+)")
_SERVER_WAIT = 300  # seconds, after which the server drops an idle connection

_SERVER = b"SELECT @@global.read_only, @@global.innodb_read_only, @@global.log_bin, @@session.binlog_format"

Connection: TypeAlias = "pymysql.Connection[Any]"


def connect(dsn: Dsn, password: str, *, database: str | None, limit: float) -> Connection:
    """A connection in autocommit mode, to a server that takes writes. Raises StatementError.

    `limit` is the time for each response of the server, in seconds; 0: no limit.
    """
    try:
        connection: Connection = pymysql.connect(
            host=dsn.host or None,
            port=dsn.port,
            unix_socket=dsn.socket or None,
            user=dsn.user,
            password=password.encode(),
            database=database,
            charset="utf8mb4",
            use_unicode=False,  # names and values as bytes
            autocommit=True,
            # FOUND_ROWS: an UPDATE counts matched rows, also those it leaves unchanged.
            client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
            connect_timeout=int(max(1.0, dsn.connect_timeout)),
            read_timeout=dsn.read_timeout or limit or None,
            write_timeout=dsn.write_timeout or limit or None,
            auth_plugin_map=cast(
                "Any", dict.fromkeys(("mysql_clear_password", b"mysql_clear_password"), _Cleartext)
            ),
            program_name="kine",
            ssl=dsn.tls,
            ssl_disabled=dsn.tls is None,
            defer_connect=True,
        )
        if dsn.attributes:
            pymysql_internals.add_attributes(connection, dsn.attributes)
        if dsn.tls_optional:
            pymysql_internals.encrypt_if_offered(connection)
        connection.connect()
    except pymysql.MySQLError as error:
        failure = translated(error, connecting=True)
        if dsn.socket:  # PyMySQL's text names a host, even for a Unix socket
            text = str(failure).replace("on 'localhost'", f"on the socket {dsn.socket}")
            failure = StatementError(failure.kind, failure.code, text, permanent=failure.permanent)
        raise failure from None
    except (OSError, RuntimeError) as error:
        raise StatementError(Kind.AWAY, "", f"no connection: {type(error).__name__}") from None
    try:
        _keep_alive(connection)
        _greet(connection, dsn)
    except pymysql.MySQLError as error:
        close(connection)
        raise translated(error, connecting=True) from None
    except StatementError:
        close(connection)
        raise
    return connection


class _Cleartext:
    """The mysql_clear_password plugin: sends the password itself, over TLS only."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, packet: Any) -> Any:
        connection = self._connection
        if not isinstance(pymysql_internals.socket_of(connection), ssl.SSLSocket):
            raise pymysql.OperationalError(
                2061, "the server asks for the password in the clear, and the connection is not encrypted"
            )
        connection.write_packet(connection.password + b"\0")
        answer = pymysql_internals.read_packet(connection)
        answer.check_error()
        return answer


def _keep_alive(connection: Connection) -> None:
    raw = pymysql_internals.socket_of(connection)
    if raw.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _greet(connection: Connection, dsn: Dsn) -> None:
    settings = (
        {
            "innodb_lock_wait_timeout": str(max(1, round(dsn.lock_timeout))),
            "wait_timeout": str(_SERVER_WAIT),
            # Without NO_ENGINE_SUBSTITUTION, a server without InnoDB uses another engine silently.
            "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
            # Clusters raise it to avoid collisions between nodes; every skipped id would be a gap.
            "auto_increment_increment": "1",
            "auto_increment_offset": "1",
        }
        | SESSION
        | dsn.settings
    )
    told = ", ".join(f"SESSION {name} = {value or chr(39) * 2}" for name, value in settings.items())
    [[(step,)]] = run(
        connection,
        f"SET {told}; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;"
        " SELECT @@session.auto_increment_increment".encode(),
    )
    if int(step) != 1:  # the server has accepted the SET, and ignored it
        raise StatementError(Kind.AWAY, "", _STEPS % int(step), permanent=True)
    if b"MariaDB" in server_version(connection):
        # The transaction of a client that has vanished must not block the others.
        idle = int(idle_limit(dsn.lock_timeout))
        run(connection, b"SET SESSION idle_transaction_timeout = %d" % idle)
    try:
        [[(*read_only, log_bin, form)]] = run(connection, _SERVER)
    except pymysql.MySQLError:
        return  # the server lacks these variables
    if any(map(is_on, read_only)):
        raise StatementError(Kind.AWAY, "1290", REPLICA)
    if log_bin in (1, b"1", b"ON") and form == b"STATEMENT":
        _log_rows(connection)


def _log_rows(connection: Connection) -> None:
    """Sets row-based binary logging: at READ COMMITTED, InnoDB refuses writes logged as statements.

    Raises StatementError if the user may not set it.
    """
    try:
        run(connection, b"SET SESSION binlog_format = ROW")
    except pymysql.MySQLError as error:
        raise StatementError(
            Kind.AWAY,
            str(error.args[0]),
            "the server has binlog_format=STATEMENT, which takes no writes of kine's, and the user may not"
            " change it for its session: set binlog_format to ROW or MIXED on the server, or grant the user"
            " BINLOG ADMIN (MariaDB) or SYSTEM_VARIABLES_ADMIN (MySQL)",
            permanent=True,
        ) from None


def is_on(value: object) -> bool:
    """Whether a server variable is on, given as a number or, by some servers, as text."""
    return value not in (None, 0, b"0", "0", b"OFF", "OFF")


def server_version(connection: Connection) -> bytes:
    version: object = connection.get_server_info()  # type: ignore[no-untyped-call]
    return version if isinstance(version, bytes) else str(version).encode()


def close(connection: Connection) -> None:
    """Closes with COM_QUIT, when no statement is running: else the server logs an aborted connection."""
    with contextlib.suppress(pymysql.MySQLError, OSError):
        connection.close()


def drop(connection: Connection) -> None:
    with contextlib.suppress(pymysql.MySQLError, OSError):
        pymysql_internals.abort(connection)


def run(connection: Connection, statements: bytes) -> list[list[tuple[Any, ...]]]:
    """Runs one packet of statements up to the first that fails; returns the rows of each result set."""
    with connection.cursor() as cursor:
        cursor.execute(cast("str", statements))  # bytes pass through as they are
        found = []
        while True:
            if cursor.description is not None:
                found.append(list(cursor.fetchall()))
            if not cursor.nextset():
                return found


def next_id(made: bytes) -> int:
    """The next AUTO_INCREMENT of SHOW CREATE TABLE's result: information_schema's may be a day old."""
    found = _NEXT_ID.search(made)
    return int(found[1]) if found else 1


def written(statement: str, parameters: Sequence[object] = ()) -> bytes:
    """A neutral statement, with its parameters inserted as literals."""
    if not parameters:
        return statement.encode()
    parts = statement.encode().split(b"?")
    made = [parts[0]]
    for part, parameter in zip(parts[1:], parameters, strict=True):
        made.append(literal(parameter))
        made.append(part)
    return b"".join(made)


def literal(value: object) -> bytes:
    """The SQL literal. Bytes become text, as the index is not used in a comparison with binary strings."""
    if value is None:
        return b"NULL"
    if isinstance(value, bytes):
        return name(value)
    if isinstance(value, int):
        return b"%d" % value
    raise TypeError(type(value).__name__)


def name(key: bytes) -> bytes:
    """The key as a SQL literal. Raises InvalidKeyError."""
    if len(key) > MAX_NAME:
        raise InvalidKeyError(
            f"this key is longer than the {MAX_NAME} bytes MySQL's table can hold: {len(key)}"
        )
    if not key.isascii():
        raise InvalidKeyError("this key is not ASCII, which is all MySQL's table can hold")
    folded = key.rstrip(b" ").lower()
    if folded in _OWN and folded != key:
        raise InvalidKeyError(
            f"this key differs from kine's own {folded.decode()} only in upper and lower case or in spaces"
            " at its end, which MySQL's table does not tell apart"
        )
    return _quoted(key)


def blob(value: bytes | None) -> bytes:
    return b"NULL" if value is None else b"_binary" + _quoted(value)


def _quoted(value: bytes) -> bytes:
    """A quoted string literal, half the size of a hexadecimal one.

    The sql_mode of kine's sessions keeps the backslash as the escape character.
    """
    return b"'" + value.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\0", b"\\0") + b"'"
