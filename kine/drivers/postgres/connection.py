"""Opening a PostgreSQL connection: credentials, TLS, GSSAPI, and the check for a read-only replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

from kine.drivers.postgres import connect_sqlstate, private_key_copy
from kine.drivers.postgres.dsn import NO_KERBEROS
from kine.drivers.postgres.failures import translated, understood
from kine.drivers.postgres.gss_connection import GssConnection, connect_off_loop
from kine.drivers.postgres.privileges import identifier
from kine.drivers.sql.failures import Kind, StatementError
from kine.identity.base import IdentityError
from kine.identity.daemon_thread import in_daemon_thread

if TYPE_CHECKING:
    from kine.drivers.postgres.dsn import Dsn
    from kine.identity.base import Provider

log = logging.getLogger(__name__)

# Matches the text of libpq and of the server: only the advice, and a new credential, depend on it.
_REFUSED = re.compile(r"authentication|GSSAPI|pg_hba", re.IGNORECASE)
REPLICA = "the server is a read-only replica; waiting for one that takes writes"
_KERBEROS_ASKED = f'method requirement "{NO_KERBEROS}" failed'
_NOT_LET_IN = {"28000", "28P01"}
_PREPARE_AFTER = 2  # executions of a statement
# The server must notice a lost client too: its half-sent transaction would hold locks.
_GREETING = (
    "SELECT pg_is_in_recovery(), set_config('tcp_keepalives_idle', '10', false),"
    " set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false)"
)


class PooledConnection:
    """Implements `kine.drivers.sql.pool.PooledResource`."""

    __slots__ = ("connection", "generation", "made")

    def __init__(self) -> None:
        self.connection: AsyncConnection[Any] | None = None
        self.generation = 0
        self.made = monotonic()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.pgconn.finish()
            self.connection = None

    @property
    def usable(self) -> bool:
        return (
            self.connection is not None
            and not self.connection.closed
            and self.connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        )


async def connect(
    dsn: Dsn, database: str, credentials: Provider | None, *, prepare: bool = True, replica: bool = False
) -> AsyncConnection[Any]:
    """A connection in autocommit mode, to a server that takes writes unless `replica` is true.

    Raises StatementError.
    """
    # As in Go kine, the server chooses the method: if it does not ask for Kerberos, no ticket is needed.
    if dsn.may_use_password:
        without = replace(dsn, connection=dsn.connection | {"require_auth": NO_KERBEROS})
        try:
            return await _connect(without, database, None, prepare=prepare, replica=replica)
        except StatementError as error:
            if _KERBEROS_ASKED not in str(error):
                raise
    return await _connect(dsn, database, credentials, prepare=prepare, replica=replica)


async def _connect(
    dsn: Dsn, database: str, credentials: Provider | None, *, prepare: bool, replica: bool
) -> AsyncConnection[Any]:
    parameters: dict[str, Any] = dict(dsn.connection)
    if credentials is not None and (issued := await _credential(credentials, parameters)) is not None:
        parameters["password"] = issued
    limit = _seconds(parameters.get("connect_timeout", "")) * max(
        1, parameters.get("host", "").count(",") + 1
    )
    opened = contextlib.ExitStack()
    try:
        async with asyncio.timeout(limit + 2):
            if key := parameters.get("sslkey"):
                parameters["sslkey"] = opened.enter_context(private_key_copy.usable(key))
            encrypted = parameters.get("gssencmode") != "disable"
            kind = GssConnection if encrypted else AsyncConnection[Any]
            threshold = _PREPARE_AFTER if prepare else None
            parameters |= {"dbname": database, "client_encoding": "utf8"}
            connection: AsyncConnection[Any]
            if encrypted or parameters.get("require_auth") != NO_KERBEROS:
                connection = await connect_off_loop(kind, threshold, **parameters)
            else:
                connection = await kind.connect(**parameters, autocommit=True, prepare_threshold=threshold)
    except psycopg.Error as error:
        code = ""
        if not understood(error) and connect_sqlstate.answered(str(error)):
            code = await in_daemon_thread(lambda: connect_sqlstate.ask(parameters, limit))
        user = identifier(parameters["user"]) if "user" in parameters else ""
        failure = translated(error, connecting=True, code=code, user=user, database=identifier(database))
        if credentials is not None and (code in _NOT_LET_IN or _REFUSED.search(str(failure))):
            credentials.refused()
            failure = translated(error, connecting=True, advise=False, code=code)
            raise StatementError(failure.kind, failure.code, f"{failure}; {credentials.advice}") from None
        raise failure from None
    except TimeoutError:
        raise StatementError(Kind.AWAY, "timeout", f"no connection within {limit + 2:.0f} s") from None
    except OSError as error:
        raise StatementError(Kind.AWAY, "", error.strerror or type(error).__name__) from None
    finally:
        opened.close()
    # Send every integer as int8: by default psycopg picks the type by size, and prepares once per type.
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    try:
        async with asyncio.timeout(limit):
            recovering = await _greet(connection)
        if recovering and not replica:
            raise StatementError(Kind.AWAY, "25006", REPLICA)
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


async def _credential(credentials: Provider, parameters: dict[str, Any]) -> str | None:
    port = int(parameters["port"].split(",")[0])
    try:
        return await credentials.credential(parameters["host"], port, parameters["user"])
    except IdentityError as error:
        raise StatementError(Kind.AWAY, "identity", str(error)) from None


async def _greet(connection: AsyncConnection[Any]) -> bool:
    try:
        cursor = await connection.execute(_GREETING, prepare=False)
        row = await cursor.fetchone()
    except psycopg.OperationalError as error:
        raise translated(error, connecting=True) from None
    except psycopg.Error:  # the server lacks these functions or settings: not PostgreSQL itself
        return False
    return bool(row and row[0])


def _seconds(text: str) -> float:
    try:
        return max(2.0, float(text))
    except ValueError:
        return 10.0


class Deadline:
    """Shuts the connection's socket down if the block takes longer than `seconds`; 0 means no limit.

    Then the server, or the network, is not answering. This is cheaper than an asyncio timeout around each
    statement, and unlike a query cancellation it needs no answer from the server.
    """

    __slots__ = ("_connection", "_timer")

    def __init__(self, connection: AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(seconds, self._break) if seconds else None

    def _break(self) -> None:
        log.warning("PostgreSQL has not answered in time: giving the connection up")
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, *failure: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
