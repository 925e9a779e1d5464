"""Saying on a terminal what takes long; elsewhere nobody waits in front of it."""

from __future__ import annotations

import sys
import time

_EVERY = 0.2  # seconds


def with_progress(what: str, done: int, total: int) -> None:
    """One line on standard error, written over by the next; it is taken back when all is done."""
    if not sys.stderr.isatty():
        return
    now = time.monotonic()
    if done >= total:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
        _last[0] = 0.0
    elif now - _last[0] > _EVERY:
        sys.stderr.write(f"\r\033[K{what}: {done:,} of {total:,}")
        sys.stderr.flush()
        _last[0] = now


_last = [0.0]
