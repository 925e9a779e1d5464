"""Renewal counter of a lease record: it grows with each renewal, and holds the time of the last one.

The upper bits are ticks of 10 us since 1970 by the clock of the instance that granted or renewed the lease.
They put leases in order and decide nothing else: clocks of two machines differ, and can be set back. The
lower bits are 0 until the first renewal. Older versions count from 0 in steps of one.
"""

from __future__ import annotations

import time

_TICKS = 100_000  # a second
_LOWER = 14  # bits: so many that an older version's increments do not reach the next tick
_LATEST = 1 << 48  # in 2059: a clock beyond it must not overflow the column


def granted(after: int = 0) -> int:
    """Counter of a lease granted now. Higher than `after`, so that leases of one tick keep their order."""
    return max(_now(), (after >> _LOWER) + 1) << _LOWER


def renewed(before: int) -> int:
    """Counter of a lease renewed now, which was `before` until then."""
    return max(before + 1, _now() << _LOWER | 1)


def never_renewed(number: int) -> bool:
    return not number & (1 << _LOWER) - 1


def seconds(number: int) -> float:
    """Seconds since 1970; 0 if an older version wrote the counter."""
    return (number >> _LOWER) / _TICKS


def _now() -> int:
    return min(max(0, time.time_ns() * _TICKS // 1_000_000_000), _LATEST)
