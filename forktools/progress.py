"""A progress line for long operations, shown only on a terminal."""

from __future__ import annotations

import sys
import time

_EVERY = 0.2  # seconds


def with_progress(what: str, done: int, total: int) -> None:
    """Writes one line to standard error, overwritten by the next call and erased at the end."""
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
