"""Questions to the database that are put once for all who ask the same meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class SharedQueries(Generic[K, T]):
    """As for freshness, an answer that was under way when somebody asked tells him nothing."""

    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        self._under_way: dict[K, asyncio.Task[T]] = {}
        self._next: dict[K, asyncio.Task[T]] = {}

    async def answer(self, about: K) -> T:
        """The answer to a question that is put after this call. Raises as `ask`."""
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
