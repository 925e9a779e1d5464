"""The SQLSTATE with which a server refuses a connection, in whatever language it says why.

libpq keeps only the text of such a refusal. It adds the code where it is told to be verbose, for which
psycopg has no function: libpq's own is called, on the pointer that psycopg gives out for that.
"""

from __future__ import annotations

import ctypes
import re
import select
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

_VERBOSE = 2  # PQERRORS_VERBOSE
_LIBRARY = re.compile(r"\s(/\S*/libpq\b[^/\s]*\.so\S*)$", re.MULTILINE)
# "failed: FATAL:  text": the severity is translated too, the two spaces are libpq's.
_ANSWERED = re.compile(r"failed: [^:]{1,40}:  ")
_CODE = re.compile(r"failed: [^:]{1,40}:  ([0-9A-Z]{5}): ")


def answered(said: str) -> bool:
    """Whether these are a server's words, and not libpq's own."""
    return _ANSWERED.search(said) is not None


def ask(parameters: Mapping[str, Any], limit: float) -> str:
    """Tries to connect once more; the code of the refusal, empty where it is not to be had. Blocks."""
    try:
        library = _libpq()
        connection = pq.PGconn.connect_start(make_conninfo(**parameters).encode())
    except (OSError, psycopg.Error):
        return ""
    try:
        library.PQsetErrorVerbosity(ctypes.c_void_p(connection.pgconn_ptr), _VERBOSE)  # type: ignore[attr-defined]
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0 and connection.status != pq.ConnStatus.BAD:
            status = connection.connect_poll()
            if status == pq.PollingStatus.READING:
                select.select([connection.socket], [], [], left)
            elif status == pq.PollingStatus.WRITING:
                select.select([], [connection.socket], [], left)
            else:
                break
        found = _CODE.search(connection.error_message.decode(errors="replace"))
        return found[1] if found else ""
    except (OSError, ValueError, psycopg.Error):
        return ""
    finally:
        connection.finish()


@cache
def _libpq() -> ctypes.CDLL:
    """The one that psycopg has loaded. Raises OSError."""
    with open("/proc/self/maps") as maps:
        found = _LIBRARY.search(maps.read())
    if found is None:
        raise OSError("libpq is not among the loaded libraries")
    return ctypes.CDLL(found[1])
