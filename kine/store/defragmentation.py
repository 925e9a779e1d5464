"""Defragmentation of the database: one run for all concurrent requests, rate-limited as it blocks writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kine.drivers.base import BusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LEAST = 1.0  # seconds from the end of one to the next
_REST = 9.0  # minimum pause, as a multiple of a run's duration: at most a tenth of the time is spent on it
_PATIENCE = 20.0  # seconds that a call waits for its turn


class Defragmenter:
    """Runs `work`. Invariant: one run at a time, and after each a pause as `_LEAST` and `_REST` define it.

    Each of the `processes` that serve one address keeps a pause of its own, so it is longer by that factor.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], processes: int = 1) -> None:
        self._work = work
        self._processes = processes
        self._running: asyncio.Task[None] | None = None
        self._due = 0.0  # event-loop time

    async def request(self) -> None:
        """Joins the current run, or starts one when the pause is over. Raises BusyError, DriverError."""
        running = self._running
        if running is None:
            pause = self._due - asyncio.get_running_loop().time()
            if pause > _PATIENCE:
                raise BusyError(
                    "the database has just been defragmented, which takes the time of writes; it may be"
                    f" again in {pause:.0f} s"
                )
            running = self._running = asyncio.create_task(self._run(pause), name="defragmentation")
            running.add_done_callback(self._ended)
        await asyncio.shield(running)  # a run continues when its client disconnects

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(pause)
        begun = loop.time()
        try:
            await self._work()
        finally:
            ended = loop.time()
            self._due = ended + max(_LEAST, _REST * (ended - begun)) * self._processes

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case every client has disconnected
