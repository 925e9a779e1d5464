"""Hears from other instances, by LISTEN on a connection of its own, that they have committed.

Nothing rests on it: a pooler that hands connections out by the transaction swallows what is announced, and
so does a server that has no such thing. That is found out by announcing something to ourselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

from kine.drivers.postgres.statements import CHANNEL
from kine.drivers.sql.failures import StatementError

log = logging.getLogger(__name__)

_TRIAL = 2.0  # seconds for our own announcement to arrive
_RETRY = 5.0
_RETRY_DEAF = 600.0  # where it never arrives
_CHECK = 60.0  # between looks whether the connection still lives


class Listener:
    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncConnection[Any]]],
        announce: Callable[[str], Awaitable[None]],
        origin: str,
    ) -> None:
        self._connect = connect
        self._announce = announce
        self._origin = origin
        self._heard = asyncio.Event()
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
                connection = await self._connect()
                try:
                    if not await self._follow(connection):
                        log.info("announcements between instances do not arrive (a pooler?): polling instead")
                        pause = _RETRY_DEAF
                finally:
                    self.works = False
                    connection.pgconn.finish()
            except (psycopg.Error, StatementError, OSError) as error:
                log.debug("listening for other instances ended: %s", type(error).__name__)
            self._heard.set()  # something may have been missed
            await asyncio.sleep(pause)

    async def _follow(self, connection: AsyncConnection[Any]) -> bool:
        """Until the connection fails; False if nothing can be heard on it."""
        await connection.execute(f"LISTEN {CHANNEL}", prepare=False)
        trial = f"trial-{self._origin}"
        await self._announce(trial)
        arrived = False
        timeout = _TRIAL
        while True:
            async for notice in connection.notifies(timeout=timeout, stop_after=1):
                if notice.payload == trial:
                    arrived = self.works = True
                    timeout = _CHECK
                elif notice.payload != self._origin:
                    self._heard.set()
            if not arrived:
                return False
