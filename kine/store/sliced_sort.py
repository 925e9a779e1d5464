"""Merge sort in slices, one in each turn of the event loop; a slice is few items, or few bytes of keys."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

AT_ONCE = 4_000  # items sorted or merged in one turn
_LIKE_AN_ITEM = 2 * 1024  # bytes of sort key that count as an item: common prefixes are compared in full


async def sorted_in_turns(
    items: Sequence[T],
    key: Callable[[T], Any],
    size: Callable[[T], int],
    next_turn: Callable[[], Awaitable[None]],
    *,
    reverse: bool,
) -> list[T]:
    """Sorts as `sorted` does, stably. `size`: bytes of an item's key."""
    runs: list[list[T]] = []
    run: list[T] = []
    work = 0
    for item in items:
        run.append(item)
        work += 1 + size(item) // _LIKE_AN_ITEM
        if work >= AT_ONCE:
            runs.append(sorted(run, key=key, reverse=reverse))
            run, work = [], 0
            await next_turn()
    runs.append(sorted(run, key=key, reverse=reverse))
    if len(runs) == 1:
        return runs[0]
    merged: list[T] = []
    work = 0
    for item in heapq.merge(*runs, key=key, reverse=reverse):
        merged.append(item)
        work += 1 + size(item) // _LIKE_AN_ITEM
        if work >= AT_ONCE:
            work = 0
            await next_turn()
    return merged
