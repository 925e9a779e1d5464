"""Errors of MySQL and MariaDB, classified by error number."""

from __future__ import annotations

import re

import pymysql

from kine.drivers.sql.failures import Kind, OutOfIdsError, StatementError

_KINDS = {
    1062: Kind.CONFLICT,
    1213: Kind.AGAIN,  # deadlock; in Galera, also a certification failure
    1020: Kind.AGAIN,  # MariaDB: the row has changed since the snapshot
    1412: Kind.AGAIN,  # the table's definition has changed since the snapshot
    1615: Kind.AGAIN,
    3101: Kind.AGAIN,  # rolled back by group replication
    1205: Kind.LOCKED,
    1021: Kind.FULL,
    1114: Kind.FULL,
    1118: Kind.LARGE,  # more than a tenth of the redo log
    1153: Kind.LARGE,
    1406: Kind.LARGE,  # data too long: a value, as kine checks the length of keys
    1366: Kind.KEY,  # not in the column's character set
    1040: Kind.UNABLE,
    1047: Kind.UNABLE,  # this node of Galera has left its cluster
    1203: Kind.UNABLE,
    1226: Kind.UNABLE,
    1290: Kind.UNABLE,
    1317: Kind.UNABLE,
    1792: Kind.UNABLE,
    1836: Kind.UNABLE,
    1969: Kind.UNABLE,
    3024: Kind.UNABLE,
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
    1118: "this value is larger than the server takes: a tenth of its redo log (innodb_redo_log_capacity)",
    1406: "this value is longer than MySQL's table can hold (16 MiB)",
    1366: "this key is not ASCII, which is all MySQL's table can hold",
    1153: "this write is larger than the server's max_allowed_packet",
}
_OUT_OF_IDS = {167, 1467}
# At the end of its range, AUTO_INCREMENT gives the last id again.
_LAST_ID = re.compile(r"'(2147483647|4294967295)' for key '(kine\.)?PRIMARY'")
_CORRECT = "correct or remove that parameter of the endpoint"
_THERE = "check that it runs, and the endpoint's address"
ACCOUNT = "correct the endpoint's user and password, or create the account: it is for one host, or '%'"
# Errors while connecting or starting: whether only another endpoint can help, and advice.
_REFUSALS = {
    1193: (True, _CORRECT),  # unknown system variable
    1229: (True, _CORRECT),  # a global variable
    1231: (True, _CORRECT),  # a value it cannot have
    1232: (True, _CORRECT),
    1238: (True, _CORRECT),  # read-only
    1621: (True, _CORRECT),
    1115: (True, _CORRECT),  # unknown character set
    1253: (True, _CORRECT),  # a collation of another character set
    1273: (True, _CORRECT),  # unknown collation
    3159: (
        True,
        "the server takes connections over TLS only: add tls=true to the endpoint, or give --ca-file",
    ),
    2059: (True, "choose for the user an authentication that is supported, such as caching_sha2_password"),
    2061: (True, "add tls=true to the endpoint"),
    2002: (False, _THERE),
    2003: (False, _THERE),
    1045: (False, ACCOUNT),
    1698: (False, ACCOUNT),
    1130: (False, ACCOUNT),
    1129: (False, "run FLUSH HOSTS on the server"),
    1044: (False, "grant the user ALL on the database"),
    1142: (False, "grant the user SELECT, INSERT, UPDATE and DELETE on the database"),
    1143: (False, "grant the user SELECT, INSERT, UPDATE and DELETE on the database"),
    1227: (False, "grant the user what the message names"),
    1370: (False, "grant the user ALL on the database"),
    1820: (False, "set the user's password anew with ALTER USER"),
    1862: (False, "set the user's password anew with ALTER USER"),
    3118: (False, "unlock the account with ALTER USER ... ACCOUNT UNLOCK"),
    4151: (False, "unlock the account with ALTER USER ... ACCOUNT UNLOCK"),
    2026: (False, "turn TLS on at the server, or leave tls and the flags for certificates out"),
}
_NO_RIGHT = {1142, 1143, 1370}
_UNVERIFIED = "give the CA that signed the server's certificate (--ca-file), and the name in it as the host"
_NO_SPACE = 28  # errno, in the text of 1030 and others
_WITH_ERRNO = {3, 1023, 1026, 1030}
# Existing connections are useless: the server's role has changed, or it is shutting down.
TURNED = {1290, 1792, 1836, 1053}


def translated(error: pymysql.MySQLError, *, connecting: bool = False, advise: bool = True) -> StatementError:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else type(error).__name__
    if number in _OUT_OF_IDS or _LAST_ID.search(text):
        return OutOfIdsError(str(number))
    kind = _KINDS.get(number, Kind.REFUSED)
    if number in _WITH_ERRNO and f"{_NO_SPACE}" in text:
        kind, text = Kind.FULL, _SAID[1021]
    said = _SAID.get(number) or ("the connection was lost" if kind is Kind.LOST else f"MySQL: {text}")
    if not connecting:
        said = f"{said} (error {number})"
        if number in _NO_RIGHT and advise:
            said += "; a restart of kine prints the GRANT statements for the rights that the user lacks"
        return StatementError(kind, str(number), said)
    if not number and isinstance(error, pymysql.InternalError):  # PyMySQL cannot parse the greeting
        return StatementError(
            Kind.AWAY, "0", "what answers there is no MySQL server; check the endpoint's host and port"
        )
    permanent, advice = _REFUSALS.get(number, (False, ""))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        advice = _UNVERIFIED
    said = f"{_SAID.get(number) or text} (error {number})"
    return StatementError(
        Kind.AWAY, str(number), f"{said}; {advice}" if advice else said, permanent=permanent
    )
