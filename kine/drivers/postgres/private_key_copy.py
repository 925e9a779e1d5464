"""An in-memory copy of a client key whose file is readable by others, as a Kubernetes Secret's (mode 0644).

libpq refuses such a file; pgx, and so Go kine, does not check the mode. libpq gets the path of a copy in
memory that only this process can open. It exists while a connection is made, and the next connection reads
the file again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def usable(path: str) -> Iterator[str]:
    """The path of the key, or of a copy, with a mode that libpq accepts. Raises OSError."""
    found = os.stat(path)
    if not hasattr(os, "memfd_create") or (found.st_uid == os.geteuid() and not found.st_mode & _OTHERS):
        yield path
        return
    copy = os.memfd_create("client-key")
    try:
        os.fchmod(copy, 0o600)
        with open(path, "rb") as file:
            os.write(copy, file.read())
        yield f"/proc/self/fd/{copy}"
    finally:
        os.close(copy)
