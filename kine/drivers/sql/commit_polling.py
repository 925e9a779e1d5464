"""Polling for other writers' commits: at adaptive intervals, and at once on a notification."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

_QUICK = 0.02  # seconds between polls while others' rows arrive without a notification
_SLOW = 0.1  # while none arrive
_HINTED = 0.25  # while other instances notify of their commits, which Go kine does not
_EASING = 1.1  # factor by which the interval grows from quick to slow
_IDLE_AFTER = 60.0


class CommitPolling:
    """Polls the newest id at intervals, and returns at once on a hint of another instance's commit."""

    def __init__(self, database: Database, newest: Callable[[], Awaitable[int]], longest: float) -> None:
        self._database = database
        self._newest = newest
        self._seen = 0
        self._again = asyncio.Event()
        self._longest = longest  # upper bound on the seconds between polls
        self._every = _QUICK
        self._unannounced = 0.0  # when polling last found a row

    def saw(self, head: int) -> None:
        """Records the newest id that another query has returned."""
        if head > self._seen:
            self._seen = head
            self._again.set()

    def look(self) -> None:
        """Makes a `changed` that is waiting return."""
        self._seen = 1 << 62
        self._again.set()

    async def changed(self, after: int) -> None:
        loop = asyncio.get_running_loop()
        if self._seen == 1 << 62:
            self._seen = after
            return
        hint = asyncio.ensure_future(self._database.hint())
        try:
            while self._seen <= after:
                self._again.clear()
                again = asyncio.ensure_future(self._again.wait())
                try:
                    done, _ = await asyncio.wait(
                        (hint, again), timeout=self._pause(loop.time()), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    again.cancel()
                if hint in done:
                    hint.result()
                    return
                if not done:
                    head = await self._newest()
                    if head < after:
                        return  # the database has gone back, which the caller checks
                    if head > after:
                        self._unannounced = loop.time()
                        self._every = _QUICK
                        return
                    self._every = min(_SLOW, self._every * _EASING)
        finally:
            hint.cancel()

    def _pause(self, now: float) -> float:
        quiet = now - self._unannounced > _IDLE_AFTER
        return min(_HINTED if quiet and self._database.hinting else self._every, self._longest)
