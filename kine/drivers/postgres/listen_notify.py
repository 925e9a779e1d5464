"""LISTEN/NOTIFY between instances: a notification says that another instance has committed.

LISTEN runs on the connection that this instance's writes use. There its own notifications arrive along with
the results of its writes. On another connection each write would wake one more server process, and this
instance once more (80 us longer, bench scenario `create-1`).

Correctness does not depend on notifications. A pooler in transaction mode drops them, and some servers do
not have them. A trial detects this: the instance sends a notification to itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg

from kine.drivers.postgres.pipeline import Pipeline, Statement
from kine.drivers.postgres.statements import LISTEN
from kine.drivers.sql.failures import StatementError

log = logging.getLogger(__name__)

_TRIAL = 2.0  # seconds for the trial's notification to arrive, before kine polls instead
_TRIAL_DEAF = 600.0  # seconds to wait for it after that, before another trial
_RETRY = 5.0  # seconds between two trials
_RETRY_HEARD = 0.1  # seconds, if notifications did arrive and the connection has ended since
_LISTEN = Statement(b"", LISTEN.encode())


class NotificationListener:
    def __init__(
        self, wire: Callable[[], Awaitable[Pipeline]], announce: Callable[[str], Awaitable[None]], origin: str
    ) -> None:
        self._wire = wire
        self._announce = announce
        self._origin = origin.encode()
        self._trial = b"trial-" + self._origin
        self._heard = asyncio.Event()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.works = False

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="listen")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def heard(self) -> None:
        await self._heard.wait()
        self._heard.clear()

    async def _run(self) -> None:
        while True:
            pause = _RETRY
            try:
                wire = await self._wire()
                if await self._hears(wire):
                    self.works = True
                    self._heard.set()  # wakes the poller: polling is not needed any more
                    await wire.ended.wait()
                    pause = _RETRY_HEARD
            except (psycopg.Error, StatementError, OSError) as error:
                log.debug("listening for other instances ended: %s", type(error).__name__)
            self.works = False
            self._heard.set()  # a notification may have been lost
            await asyncio.sleep(pause)

    async def _hears(self, wire: Pipeline) -> bool:
        """Whether the trial's notification arrives: no other one proves that notifications work."""
        trial = asyncio.create_task(self._try(wire))
        ended = asyncio.create_task(wire.ended.wait())
        try:
            await asyncio.wait([trial, ended], timeout=_TRIAL, return_when=asyncio.FIRST_COMPLETED)
            if not trial.done() and not wire.closed:
                log.info("announcements between instances do not arrive (a pooler?): polling instead")
                # On a busy server the notification may be late.
                await asyncio.wait([trial, ended], timeout=_TRIAL_DEAF, return_when=asyncio.FIRST_COMPLETED)
            if trial.done():
                await trial
            return trial.done()
        finally:
            trial.cancel()
            ended.cancel()

    async def _try(self, wire: Pipeline) -> None:
        self._arrived.clear()
        wire.hear = self._hear
        await wire.ask([(_LISTEN, ())], prepared=False)
        await self._announce(self._trial.decode())
        await self._arrived.wait()

    def _hear(self, payload: bytes) -> None:
        if payload == self._trial:
            self._arrived.set()
        elif payload != self._origin:
            self._heard.set()
