"""Whether the files that are open are still those that the path names.

SQLite goes on writing to a file that was deleted or replaced, and says so to nobody: what is written then is
in no file that anybody will open again.
"""

from __future__ import annotations

import os


class FileIdentity:
    """Of the database file and, in WAL mode, of its log and the log's index, which are lost with it."""

    def __init__(self, path: str) -> None:
        """The files are open, and have just been."""
        self._path = path
        names = (path, f"{path}-wal", f"{path}-shm")
        self._known = [(name, known) for name in names if (known := _identity(name)) is not None]

    def lost(self) -> str:
        """Why nothing may be written any more; an empty text as long as all files are there."""
        for name, known in self._known:
            found = _identity(name)
            if found != known:
                what = "replaced" if found is not None else "deleted"
                return (
                    f"{name} was {what} while kine serves from {self._path}: what is written now would be"
                    " lost; stop kine, put the files back or restore a backup, and start it again"
                )
        return ""


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
