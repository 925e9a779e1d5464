"""A client's private key whose file others may read, as a Kubernetes Secret's has it (mode 0644).

libpq refuses such a file; pgx, and so Go kine, does not look at the mode. It is given a copy in memory that
only this process can open, for as long as a connection is made: the next one reads the file again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def usable(path: str) -> Iterator[str]:
    """A path that libpq takes. Raises OSError."""
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
