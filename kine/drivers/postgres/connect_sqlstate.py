"""The SQLSTATE of a refused connection, which does not depend on the language of the server's messages.

libpq keeps only the text of such a refusal, and includes the code only in verbose mode. psycopg has no
function that sets this mode, so libpq's PQsetErrorVerbosity is called through ctypes, on the connection
pointer that psycopg exposes.
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
# "failed: FATAL:  text": the severity is translated too; the two spaces are libpq's.
_ANSWERED = re.compile(r"failed: [^:]{1,40}:  ")
_CODE = re.compile(r"failed: [^:]{1,40}:  ([0-9A-Z]{5}): ")


def answered(said: str) -> bool:
    """Whether the error text comes from a server, and not from libpq itself."""
    return _ANSWERED.search(said) is not None


def ask(parameters: Mapping[str, Any], limit: float) -> str:
    """Connects once more and returns the SQLSTATE of the refusal, or "" if there is none.

    Blocks for up to `limit` seconds.
    """
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
    """The libpq that psycopg has loaded. Raises OSError."""
    with open("/proc/self/maps") as maps:
        found = _LIBRARY.search(maps.read())
    if found is None:
        raise OSError("libpq is not among the loaded libraries")
    return ctypes.CDLL(found[1])
