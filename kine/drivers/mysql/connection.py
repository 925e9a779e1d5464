"""One connection to MySQL or MariaDB: how it is made, and how statements are put to it."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pymysql
from pymysql.constants import CLIENT

from kine.drivers.base import InvalidKeyError
from kine.drivers.mysql.failures import translated
from kine.drivers.sql.database import idle_limit
from kine.drivers.sql.failures import Kind, StatementError

if TYPE_CHECKING:
    from kine.drivers.mysql.dsn import Dsn

log = logging.getLogger(__name__)

REPLICA = "the server is a read-only replica; waiting for one that takes writes"
MAX_NAME = 630  # bytes, the width of Go kine's column
# Statements name these rows; whatever MySQL takes for them would be changed along.
_OWN = (b"compact_rev_key", b"compact_rev_key_apiserver")
_SERVER_WAIT = 300  # seconds, after which the server drops a connection of ours that is silent

Connection: TypeAlias = "pymysql.Connection[Any]"


def connect(dsn: Dsn, password: str, *, database: str | None, limit: float) -> Connection:
    """A connection in autocommit mode, to a server that takes writes. Raises StatementError.

    `limit` is how long one answer may take, in seconds; 0: for ever.
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
            # FOUND_ROWS: a row that an update leaves as it was is there all the same.
            client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
            connect_timeout=int(max(1.0, dsn.connect_timeout)),
            read_timeout=dsn.read_timeout or limit or None,
            write_timeout=dsn.write_timeout or limit or None,
            auth_plugin_map=cast(
                "Any", dict.fromkeys(("mysql_clear_password", b"mysql_clear_password"), _Cleartext)
            ),
            program_name="kine",
            **_tls(dsn),
        )
    except pymysql.MySQLError as error:
        raise translated(error, connecting=True) from None
    except (OSError, RuntimeError) as error:
        raise StatementError(Kind.AWAY, "", f"no connection: {type(error).__name__}") from None
    try:
        _keep_alive(connection)
        _greet(connection, dsn)
    except pymysql.MySQLError as error:
        drop(connection)
        raise translated(error, connecting=True) from None
    except StatementError:
        drop(connection)
        raise
    return connection


def _tls(dsn: Dsn) -> dict[str, Any]:
    if dsn.tls is None:
        return {"ssl_disabled": True}
    # Without `ssl`, PyMySQL encrypts if the server can, and does not verify.
    return {} if dsn.tls_optional else {"ssl": dsn.tls}


class _Cleartext:
    """A server may ask for the password itself; it gets it over TLS only."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, packet: Any) -> Any:
        connection = self._connection
        if not isinstance(connection._sock, ssl.SSLSocket):
            raise pymysql.OperationalError(
                2061, "the server asks for the password in the clear, and the connection is not encrypted"
            )
        connection.write_packet(connection.password + b"\0")
        answer = connection._read_packet()
        answer.check_error()
        return answer


def _keep_alive(connection: Connection) -> None:
    raw = connection._sock  # type: ignore[attr-defined]
    if raw.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _greet(connection: Connection, dsn: Dsn) -> None:
    settings = {
        "innodb_lock_wait_timeout": str(max(1, round(dsn.lock_timeout))),
        "wait_timeout": str(_SERVER_WAIT),
        "sql_mode": "'STRICT_ALL_TABLES'",
        # Clusters raise it so that nodes do not collide; every id left out would be a gap.
        "auto_increment_increment": "1",
        "auto_increment_offset": "1",
    } | dsn.settings
    told = ", ".join(f"SESSION {name} = {value or chr(39) * 2}" for name, value in settings.items())
    run(connection, f"SET {told}; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".encode())
    if b"MariaDB" in server_version(connection):
        # A transaction whose client has gone without a word must not hold the others up.
        idle = int(idle_limit(dsn.lock_timeout))
        run(connection, b"SET SESSION idle_transaction_timeout = %d" % idle)
    try:
        [[(read_only, inner)]] = run(connection, b"SELECT @@global.read_only, @@global.innodb_read_only")
    except pymysql.MySQLError:
        return  # a server without these
    if read_only or inner:
        raise StatementError(Kind.AWAY, "1290", REPLICA)


def server_version(connection: Connection) -> bytes:
    version: object = connection.get_server_info()  # type: ignore[no-untyped-call]
    return version if isinstance(version, bytes) else str(version).encode()


def drop(connection: Connection) -> None:
    with contextlib.suppress(pymysql.MySQLError, OSError):
        connection._force_close()  # type: ignore[attr-defined]


def run(connection: Connection, statements: bytes) -> list[list[tuple[Any, ...]]]:
    """One packet of statements; the rows of each that returns some. Ends at the first that fails."""
    with connection.cursor() as cursor:
        cursor.execute(cast("str", statements))  # bytes pass through as they are
        found = []
        while True:
            if cursor.description is not None:
                found.append(list(cursor.fetchall()))
            if not cursor.nextset():
                return found


def written(statement: str, parameters: Sequence[object] = ()) -> bytes:
    """A neutral statement with its parameters in place."""
    if not parameters:
        return statement.encode()
    parts = statement.encode().split(b"?")
    made = [parts[0]]
    for part, parameter in zip(parts[1:], parameters, strict=True):
        made.append(literal(parameter))
        made.append(part)
    return b"".join(made)


def literal(value: object) -> bytes:
    """Names are given as text: compared with bytes, the index would not serve."""
    if value is None:
        return b"NULL"
    if isinstance(value, bytes):
        return name(value)
    if isinstance(value, int):
        return b"%d" % value
    raise TypeError(type(value).__name__)


def name(key: bytes) -> bytes:
    """Raises InvalidKeyError."""
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
    """Our sessions' sql_mode leaves the backslash its meaning; half the size of hexadecimal."""
    return b"'" + value.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\0", b"\\0") + b"'"
