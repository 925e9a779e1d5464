"""When to look at what others have committed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kine.drivers.sql.database import Database

_QUICK = 0.02  # seconds between looks while others' rows arrive unannounced
_SLOW = 0.1  # while they do not
_HINTED = 0.25  # while others announce what they commit; Go kine does not
_EASING = 1.1  # from quick to slow
_IDLE_AFTER = 60.0


class CommitPolling:
    """Looks by itself from time to time, and at once on a hint."""

    def __init__(self, database: Database, newest: Callable[[], Awaitable[int]], longest: float) -> None:
        self._database = database
        self._newest = newest
        self._seen = 0
        self._again = asyncio.Event()
        self._longest = longest  # seconds between looks, where it is less than ours
        self._every = _QUICK
        self._unannounced = 0.0  # when a row was last found by looking

    def saw(self, head: int) -> None:
        """Somebody has asked for the newest id, and this is it."""
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
                        return  # the database has gone back: whoever follows it looks into that
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
