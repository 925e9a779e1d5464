"""Metrics and readiness of all workers, as every worker serves them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kine.workers import metrics_merge
from kine.workers.worker import tell

if TYPE_CHECKING:
    from kine.workers.worker import Worker

_IN_TIME = 2.0  # seconds; metrics matter most when the database is slow, so they do not wait for it


class AllWorkersStatus:
    def __init__(self, worker: Worker, why_not: Callable[[], Awaitable[str]]) -> None:
        self._worker = worker
        self._why_not = why_not  # the reason why this worker is not ready; empty: it is

    async def reason(self) -> str:
        """Why no worker is ready; empty if one is, as the parent passes clients only to ready workers."""
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
        """Sends this worker's status to the worker that asked. Raises OSError."""
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
