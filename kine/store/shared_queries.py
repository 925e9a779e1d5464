"""Database queries that are sent once for all concurrent callers with the same argument."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class SharedQueries(Generic[K, T]):
    """Runs `ask` at most once at a time per argument.

    As in `freshness`, a caller does not get the result of a query that started before its call: that may be
    older than what the caller must see. It shares the next one.
    """

    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        self._under_way: dict[K, asyncio.Task[T]] = {}
        self._next: dict[K, asyncio.Task[T]] = {}

    async def answer(self, about: K) -> T:
        """Returns the result of a query that starts after this call. Raises as `ask`."""
        task = self._next.get(about)
        if task is None:
            task = self._next[about] = asyncio.ensure_future(self._put(about))
        return await asyncio.shield(task)

    async def _put(self, about: K) -> T:
        while (before := self._under_way.get(about)) is not None:
            await asyncio.wait((before,))
        self._under_way[about] = self._next.pop(about)
        try:
            return await self._ask(about)
        finally:
            del self._under_way[about]
