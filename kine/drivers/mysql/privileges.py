"""The user's missing privileges on kine's tables, and the GRANT statements that give them."""

from __future__ import annotations

from collections.abc import Iterable

import pymysql

from kine.drivers.mysql.connection import Connection, run
from kine.drivers.sql.tables import RIGHTS

DENIED = {1044, 1142, 1143, 1227, 1370}
# Each needs its privilege and touches no row. MySQL has no function that returns a user's privileges,
# including those of roles.
_TRIALS = {
    "SELECT": "SELECT 1 FROM {0} WHERE FALSE",
    "INSERT": "INSERT INTO {0} SELECT * FROM {0} WHERE FALSE",
    "UPDATE": "UPDATE {0} SET id = id WHERE FALSE",
    "DELETE": "DELETE FROM {0} WHERE FALSE",
}


def lacking_rights(connection: Connection, tables: Iterable[str]) -> dict[str, list[str]]:
    """The privileges missing on these existing tables, by table."""
    trials = {table: [_TRIALS[right].format(table) for right in RIGHTS] for table in tables}
    try:
        run(connection, "; ".join(trial for several in trials.values() for trial in several).encode())
    except pymysql.MySQLError as error:
        if not is_denied(error):
            raise
    else:
        return {}
    lacking = {}
    for table, several in trials.items():
        rights = [right for right, trial in zip(RIGHTS, several, strict=True) if _denied(connection, trial)]
        if rights:
            lacking[table] = list(RIGHTS) if "SELECT" in rights else rights  # the others need SELECT too
    return lacking


def grant(connection: Connection, rights: Iterable[str], database: str, table: str = "") -> str:
    """The GRANT statement for this connection's account."""
    return f"GRANT {', '.join(rights)} ON {_on(database, table)} TO {account(connection)};"


def account(connection: Connection) -> str:
    """The account as SQL, 'name'@'host'. Its host may differ from the one in the server's messages."""
    [[(user,)]] = run(connection, b"SELECT CURRENT_USER()")
    name, _, host = bytes(user).decode(errors="replace").rpartition("@")
    return f"'{name}'@'{host}'"


def is_denied(error: pymysql.MySQLError) -> bool:
    return bool(error.args) and error.args[0] in DENIED


def _denied(connection: Connection, trial: str) -> bool:
    try:
        run(connection, trial.encode())
    except pymysql.MySQLError as error:
        if not is_denied(error):
            raise
        return True
    return False


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _on(database: str, table: str) -> str:
    if table:
        return f"{quoted(database)}.{table}"
    # For a whole database, GRANT takes the name as a pattern.
    return f"{quoted(database.replace('_', chr(92) + '_').replace('%', chr(92) + '%'))}.*"
