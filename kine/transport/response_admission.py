"""Admission of large responses: a connection's are built one after another, as earlier ones are sent."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kine.transport.byte_budget import ByteAccount


class ResponseAdmission:
    def __init__(self, account: ByteAccount) -> None:
        self._account = account
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """See `Call.room`. Reserves the size until the next loop iteration, when the response is queued."""
        await self._let_in(size)
        self._loop.call_soon(self._leave, size)

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """See `Call.hold`."""
        await self._let_in(size)
        try:
            yield
        finally:
            self._leave(size)

    async def _let_in(self, size: int) -> None:
        """Waits until `size` fits, and reserves it."""
        if not self._waiting and self._account.fits(size):
            self._account.reserve(size)
            return
        turn = self._loop.create_future()
        self._waiting.append((size, turn))
        self._wait()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._account.release(size)  # it was admitted just before the cancellation
            self.open()  # it may have been the first in the queue
            raise

    def _leave(self, size: int) -> None:
        self._account.release(size)
        self.open()

    def open(self) -> None:
        """Admits waiting responses, in order, as far as there is room."""
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._account.fits(size):
                    break
                turn.set_result(None)
                self._account.reserve(size)
            self._waiting.popleft()
        self._wait()

    def _wait(self) -> None:
        self._account.wanted = self._waiting[0][0] if self._waiting else 0
        if self._waiting:
            self._account.wait()
