"""PostgreSQL's errors, by SQLSTATE."""

from __future__ import annotations

import psycopg

from kine.drivers.sql.failures import Kind, StatementError

_KINDS = {
    "23505": Kind.CONFLICT,
    "40001": Kind.AGAIN,  # serialization_failure
    "40P01": Kind.AGAIN,  # deadlock_detected
    "25P02": Kind.AGAIN,  # in_failed_sql_transaction: an earlier error of the same transaction was swallowed
    "26000": Kind.AGAIN,  # a prepared statement is not there: see `forgets_prepared`
    "42P05": Kind.AGAIN,  # or is there already
    "25P03": Kind.AGAIN,  # idle_in_transaction_session_timeout: we were paused, and it was rolled back
    "55P03": Kind.LOCKED,
    "53100": Kind.FULL,
    "22021": Kind.KEY,  # not in the database's encoding
    "22P05": Kind.KEY,
    "54000": Kind.KEY,  # index row size exceeds the maximum
    "40003": Kind.LOST,  # statement_completion_unknown
    "57P01": Kind.LOST,  # shut down by the administrator, perhaps after the commit took place
    "57P02": Kind.LOST,  # another process crashed
    "57P05": Kind.LOST,
    "08006": Kind.LOST,
    "08007": Kind.LOST,
    "08003": Kind.LOST,
}
_SAID = {
    "25006": "the server takes no writes: it is a read-only replica, or default_transaction_read_only is on",
    "53300": "the server has too many connections",
    "57014": "the server cancelled the statement: statement_timeout, or an administrator",
    "53100": "the database server's disk is full",
    "54000": "this key is longer than PostgreSQL's index can hold (about 2,700 bytes)",
    "22021": "this key is not text in the database's encoding",
    "22P05": "this key is not text in the database's encoding",
}
# Connections made before are of no more use: the server is another one now, or about to go.
TURNED = {"25006", "57P01", "57P02", "57P03"}


def forgets_prepared(error: psycopg.Error) -> bool:
    """A pooler has put another server connection behind ours, which does not know what was prepared."""
    return error.sqlstate in ("26000", "42P05")


def translated(error: psycopg.Error, *, connecting: bool = False) -> StatementError:
    code = error.sqlstate or ""
    if connecting:
        return StatementError(Kind.AWAY, code, _SAID.get(code) or _reason(error))
    if not code:
        return StatementError(Kind.LOST, type(error).__name__, "the connection to PostgreSQL was lost")
    text = _SAID.get(code) or f"PostgreSQL: {error.diag.message_primary or type(error).__name__}"
    return StatementError(_KINDS.get(code, Kind.REFUSED), code, f"{text} (SQLSTATE {code})")


def _reason(error: psycopg.Error) -> str:
    """libpq's words on a failed connection: hosts, ports and users, no passwords; several lines made one."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line)[:500] or type(error).__name__
