"""Capture of grpcio's raw stderr lines, which are logged at a limited rate.

grpcio's core writes a raw line to stderr for each failed TLS handshake, which any client that can connect may
cause at any rate. Here file descriptor 2 becomes a pipe, whose reader logs such lines, at most one in ten
seconds for each place in the library's source. All other lines go to stderr unchanged. The log and Python's
own `sys.stderr` write to stderr directly.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kine.observe.logging import fields

log = logging.getLogger(__name__)

_LINE = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ (\S+:\d+)\] (.*)")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.WARNING, "F": logging.ERROR}
_INTERVAL = 10.0  # minimum seconds between two logged lines of one place
_LONGEST = 500  # characters
_END = 1.0  # seconds to wait for the last lines; a child process may keep the pipe open longer


@contextmanager
def logged() -> Iterator[None]:
    """Captures stderr while the context is entered."""
    stderr = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    python_stderr = sys.stderr
    direct = sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")
    _point_handlers(python_stderr, direct)
    reader = threading.Thread(target=_read, args=(reading, stderr), name="native stderr", daemon=True)
    reader.start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        sys.stderr = python_stderr
        _point_handlers(direct, python_stderr)
        reader.join(_END)
        if not reader.is_alive():
            direct.close()


def _point_handlers(before: object, after: object) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(after)


def _read(reading: int, stderr: int) -> None:
    lines = Lines()
    with os.fdopen(reading, "rb") as pipe:
        for line in pipe:
            with suppress(Exception):  # must not stop: the library would block on a full pipe
                if not lines.take(line.decode("utf-8", "backslashreplace").rstrip("\n"), time.monotonic()):
                    os.write(stderr, line)


class Lines:
    """Rate limit of lines by place in the library's source, of which there are some dozens."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[float, int]] = {}  # time last logged, lines suppressed since

    def take(self, line: str, now: float) -> bool:
        """Logs or suppresses a line of grpcio; False if it is not one."""
        found = _LINE.match(line)
        if found is None:
            return False
        level, place, text = found.groups()
        last, left_out = self._places.get(place, (-_INTERVAL, 0))
        if now - last < _INTERVAL:
            self._places[place] = (last, left_out + 1)
            return True
        self._places[place] = (now, 0)
        log.log(_LEVELS[level], "grpc: %s", text[:_LONGEST], extra=fields(place=place, left_out=left_out))
        return True
