"""What any worker shows of all of them: their metrics as one page, and whether one is ready."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kine.workers import metrics_merge
from kine.workers.worker import tell

if TYPE_CHECKING:
    from kine.workers.worker import Worker

_IN_TIME = 2.0  # seconds; the metrics tell the more the less the database does


class AllWorkersStatus:
    def __init__(self, worker: Worker, why_not: Callable[[], Awaitable[str]]) -> None:
        self._worker = worker
        self._why_not = why_not  # this worker is not ready; empty: it is

    async def reason(self) -> str:
        """Nothing if one worker is ready: clients come to those that are, and to no other."""
        why_not = await self._why_not()
        if why_not:
            others = await self._worker.others()
            if any(not other["why_not"] for other in others):
                return ""
        return why_not

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        own, others = await asyncio.gather(self._told(), self._worker.others())
        every = sorted([own, *others], key=lambda told: int(told["worker"]))
        ready = sum(not told["why_not"] for told in every)
        return await metrics_merge.exposition(
            [(told["worker"], told["metrics"]) for told in every], ready, accept
        )

    async def tell(self, connection: socket.socket) -> None:
        """Tells the worker that asked. Raises OSError."""
        await tell(connection, await self._told())

    async def _told(self) -> dict[str, Any]:
        why_not, metrics = await asyncio.gather(self._why_not_in_time(), metrics_merge.collected())
        return {"worker": self._worker.number, "why_not": why_not, "metrics": metrics}

    async def _why_not_in_time(self) -> str:
        try:
            async with asyncio.timeout(_IN_TIME):
                return await self._why_not()
        except TimeoutError:
            return f"the database has not answered for {_IN_TIME:.0f} s"
