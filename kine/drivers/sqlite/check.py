"""Is this file ours to open? Asked before anything is written to it."""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote

from kine.drivers.base import DriverError

_MAGIC = b"SQLite format 3\x00"
_COLUMNS = {
    "id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value",
}  # fmt: skip


def check_file(path: str, *, whole: bool) -> None:
    """Raises DriverError, which says what the file is and what to do, and leaves the file untouched.

    `whole` walks every page (SQLite's quick_check), which takes about a second a gigabyte.
    """
    try:
        size = os.path.getsize(path)
        if size == 0:
            return
        with open(path, "rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DriverError(f"cannot read {path}: {error.strerror}; check its owner and mode") from None
    if magic != _MAGIC:
        raise DriverError(
            f"{path} is not an SQLite database (it starts with {magic[:16]!r});"
            " name another path in the endpoint, or move that file away"
        )
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
    try:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if "kine" in tables:
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
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise DriverError(_corrupt(path, verdict.splitlines()[-1]))
    except sqlite3.DatabaseError as error:
        raise DriverError(_corrupt(path, str(error))) from None
    finally:
        connection.close()


def _corrupt(path: str, detail: str) -> str:
    return (
        f"{path} is damaged ({detail}); restore it from a backup, or save what can be read with"
        f" `sqlite3 {path} .recover | sqlite3 recovered.db` and start on that. The file was not changed"
    )
