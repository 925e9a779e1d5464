"""Cache of patch-ids by commit.

A commit's patch never changes, so its patch-id does not change either as long as git computes it the same
way; git's version is therefore part of the key. The file is in the user's cache directory and can be deleted
at any time; without it all patch-ids are computed again. Its contents are trusted, because write access to
that directory would also allow replacing git.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LIMIT = 500_000  # rows; some 80 MB
_SCHEMA = """CREATE TABLE IF NOT EXISTS patches (key TEXT, sha TEXT, patch TEXT, PRIMARY KEY (key, sha))
    WITHOUT ROWID"""


def known(key: str, shas: Iterable[str]) -> dict[str, str]:
    """The patch-ids stored under `key`; a commit without one is left out."""
    found: dict[str, str] = {}
    with contextlib.suppress(sqlite3.Error, OSError):
        path = _path()
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as database:
            rows = database.execute(
                "SELECT sha, patch FROM patches WHERE key = ? AND sha IN (SELECT value FROM json_each(?))",
                (key, json.dumps([*shas])),
            )
            found.update(rows)
    return found


def keep(key: str, patches: Mapping[str, str]) -> None:
    """Stores patch-ids for the next run; if that fails, the next run computes them again."""
    with contextlib.suppress(sqlite3.Error, OSError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as database, database:
            database.execute(_SCHEMA)
            [count] = database.execute("SELECT count(*) FROM patches").fetchone()
            if count + len(patches) > _LIMIT:
                database.execute("DELETE FROM patches")
            database.executemany(
                "INSERT OR IGNORE INTO patches VALUES (?, ?, ?)",
                [(key, sha, patch) for sha, patch in patches.items()],
            )


def _path() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "forktools" / "patches.db"
