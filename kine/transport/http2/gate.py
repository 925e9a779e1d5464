"""Many large answers asked for at once are made one after the other, as the ones before leave."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kine.transport.http2.outbox import Outbox


class Gate:
    def __init__(self, out: Outbox, size: int) -> None:
        self._out = out
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._building = 0  # bytes of answers that may be made but are not queued yet
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """See `Call.room`: waits until what is queued leaves room, or nothing is queued at all."""
        if not self._waiting and self._fits(size):
            self._build(size)
            return
        turn = self._loop.create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self.open()  # it may have been the first
            raise

    def open(self) -> None:
        """Something has left the queue."""
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(size):
                    return
                turn.set_result(None)
                self._build(size)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        taken = self._building + self._out.queued
        return not taken or taken + size <= self._size

    def _build(self, size: int) -> None:
        """The answer counts as being made until its turn of the loop is over: by then it is queued."""
        self._building += size
        self._loop.call_soon(self._built, size)

    def _built(self, size: int) -> None:
        self._building -= size
        self.open()
