"""Preflight check of an SQLite file, before anything is written to it: is it a database for kine?"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from kine.drivers.base import DriverError
from kine.drivers.sqlite.failures import DamagedError, damage, no_access, translated
from kine.drivers.sqlite.integer_names import NUMBER
from kine.drivers.sqlite.read_only_connection import connect_to_read

_MAGIC = b"SQLite format 3\x00"
_COLUMNS = {
    "id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value",
}  # fmt: skip


def check_file(path: str, *, whole: bool, lock_wait: float = 5.0) -> None:
    """Raises DriverError, which says what the file is and what to do; leaves the file untouched.

    `whole` checks every page (SQLite's quick_check), which takes about a second per gigabyte. Raises
    LockedError if another process keeps the file locked for `lock_wait` seconds.
    """
    if not _has_content(path):
        return
    try:
        with closing(connect_to_read(path, lock_wait=lock_wait)) as connection:
            _check(path, connection, whole=whole)
    except sqlite3.Error as error:
        raise translated(error, path) from None


def _check(path: str, connection: sqlite3.Connection, *, whole: bool) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "kine" in tables:
        [(encoding,)] = connection.execute("PRAGMA encoding")
        if encoding != "UTF-8":
            raise DriverError(
                f"{path} holds its text as {encoding}, in which keys are not what kine reads and writes;"
                " copy its rows into a database that holds it as UTF-8"
            )
        columns = {row[1] for row in connection.execute("PRAGMA table_info(kine)")}
        if missing := _COLUMNS - columns:
            raise DriverError(
                f"{path} has a table named kine that is not kine's: it lacks"
                f" {', '.join(sorted(missing))}; name another path in the endpoint"
            )
    elif foreign := tables - {"key_value"} - {name for name in tables if name.startswith("sqlite_")}:
        raise DriverError(
            f"{path} is another program's SQLite database (it has the table {min(foreign)!r} and no"
            " table kine); name another path in the endpoint"
        )
    if whole:
        found = [row[0] for row in connection.execute("PRAGMA quick_check(1000)")]
        verdict = next((text for text in found if text not in ("ok", NUMBER)), "")
        if verdict:
            raise DamagedError(damage(path, verdict.splitlines()[-1]))


def _has_content(path: str) -> bool:
    try:
        size = os.path.getsize(path)
        magic = b""
        if size:
            with open(path, "rb") as file:
                magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        size = 0
    except OSError as error:
        raise DriverError(no_access(path) or f"cannot read {path}: {error.strerror}") from None
    if not size:
        _no_log_alone(path)
        return False
    if magic != _MAGIC:
        raise DriverError(
            f"{path} is not an SQLite database (it starts with {magic[:16]!r});"
            " name another path in the endpoint, or move that file away"
        )
    return True


def _no_log_alone(path: str) -> None:
    """Raises if there is a log without a database: SQLite would delete it, and it may hold the only data."""
    log = f"{path}-wal"
    if os.path.exists(log) and os.path.getsize(log):
        raise DriverError(
            f"{log} is there and its database {path} is not: put back the database that it belongs to,"
            f" or move {log} away to start with an empty one"
        )
