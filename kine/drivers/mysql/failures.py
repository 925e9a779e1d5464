"""Errors of MySQL and MariaDB, by number."""

from __future__ import annotations

import pymysql

from kine.drivers.sql.failures import Kind, StatementError

_KINDS = {
    1062: Kind.CONFLICT,
    1213: Kind.AGAIN,  # deadlock; in Galera, also a certification failure
    1020: Kind.AGAIN,  # MariaDB: the row has changed since the snapshot
    1615: Kind.AGAIN,
    3101: Kind.AGAIN,  # group replication rolled it back
    1205: Kind.LOCKED,
    1021: Kind.FULL,
    1114: Kind.FULL,
    1406: Kind.KEY,  # data too long
    1366: Kind.KEY,  # not in the column's character set
    1053: Kind.LOST,  # shutting down
    1152: Kind.LOST,
    1158: Kind.LOST,
    1159: Kind.LOST,
    1160: Kind.LOST,
    1161: Kind.LOST,
    1180: Kind.LOST,  # an error during COMMIT
    1927: Kind.LOST,  # killed
    2006: Kind.LOST,
    2013: Kind.LOST,
    2014: Kind.LOST,
    2055: Kind.LOST,
    0: Kind.LOST,  # PyMySQL, on a connection that is closed
}
_SAID = {
    1290: "the server takes no writes: it is a read-only replica",
    1792: "the server takes no writes: it is a read-only replica",
    1836: "the server takes no writes: it is a read-only replica",
    1040: "the server has too many connections",
    1203: "the user has too many connections",
    1226: "the user has used up a limit of its account",
    1205: "another transaction has held a lock for too long",
    1114: "the database is full",
    1021: "the database server's disk is full",
    1317: "the server interrupted the statement",
    1969: "the server cancelled the statement: max_statement_time",
    3024: "the server cancelled the statement: max_execution_time",
    1406: "this key or value is longer than MySQL's table can hold (630 bytes, 16 MiB)",
    1366: "this key is not ASCII, which is all MySQL's table can hold",
    1153: "this write is larger than the server's max_allowed_packet",
}
_NO_SPACE = 28  # errno, in the text of 1030 and others
_WITH_ERRNO = {3, 1023, 1026, 1030}
# Connections made before are of no more use.
TURNED = {1290, 1792, 1836, 1053}


def translated(error: pymysql.MySQLError, *, connecting: bool = False) -> StatementError:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else type(error).__name__
    kind = _KINDS.get(number, Kind.REFUSED)
    if number in _WITH_ERRNO and f"{_NO_SPACE}" in text:
        kind, text = Kind.FULL, _SAID[1021]
    said = _SAID.get(number) or ("the connection was lost" if kind is Kind.LOST else f"MySQL: {text}")
    if connecting:
        kind = Kind.AWAY
        said = _SAID.get(number) or text
    return StatementError(kind, str(number), f"{said} (error {number})")
