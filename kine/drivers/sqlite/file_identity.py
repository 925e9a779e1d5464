"""File identity: detects that the open database files were deleted or replaced at their path.

SQLite continues to write to such a file without an error, and those writes are lost: no process can open that
file again.
"""

from __future__ import annotations

import os


class FileIdentity:
    """Identities of the database file and, in WAL mode, of its log and log index, which are lost with it."""

    def __init__(self, path: str) -> None:
        """Records the identities. The files must have been opened just before."""
        self._path = path
        names = (path, f"{path}-wal", f"{path}-shm")
        self._known = [(name, known) for name in names if (known := _identity(name)) is not None]

    def lost(self) -> str:
        """Returns why nothing may be written any more; empty as long as all files are in place."""
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
