"""Read-only SQLite connection, which also works after a killed process left a half-written transaction."""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote


def connect_to_read(path: str, *, lock_wait: float = 5.0) -> sqlite3.Connection:
    """Connects; waits up to `lock_wait` seconds for another process's lock. Raises sqlite3.Error.

    A transaction that a killed process left in the file is first rolled back with its rollback journal, as
    every reader must (https://sqlite.org/lockingv3.html#hot_journals), which requires write permission.
    """
    connection = _connect(path, "ro", lock_wait)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            connection.close()
            connection = _connect(path, "rw", lock_wait)
            connection.execute("PRAGMA query_only = ON")
    return connection  # the caller's first query reports any other error


def _connect(path: str, mode: str, lock_wait: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file://{quote(os.path.abspath(path))}?mode={mode}",  # the path may begin with two slashes
        uri=True,
        timeout=lock_wait,
        isolation_level=None,
        check_same_thread=False,
    )
