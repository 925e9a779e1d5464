"""Freshness of the index, for linearizable reads: concurrent reads share one query for the newest revision.

A linearizable read must see everything committed before it arrived. A query that was already under way may
be older than that, so the read waits for the next one, which is sent as soon as the current one is answered.
Waiting reads are notified by a plain call: no task, no coroutine (bench scenario `get-1`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import Log, UnavailableError
from kine.futures import settle

if TYPE_CHECKING:
    from kine.store.index import Index

log = logging.getLogger(__name__)

# Called once: with None as soon as the index is fresh, or with the error that prevents it. It never raises.
Told = Callable[[Exception | None], None]


class Follower(Protocol):
    """Brings the index up to date; see `kine.store.tailer`."""

    async def reach(self, revision: int) -> None: ...

    async def doubt(self) -> None: ...


class Freshness:
    def __init__(self, driver: Log, index: Index, follower: Follower) -> None:
        self._driver = driver
        self._index = index
        self._follower = follower
        self._asked: list[Told] | None = None  # reads that wait for the query under way
        self._next: list[Told] = []  # reads that wait for the one after it
        self._seen = 0  # the index's revision when the query was sent
        self._question: asyncio.Future[int] | None = None
        self._soon = False
        self._shared = False
        self._tasks = BackgroundTasks()

    def revision_to_reach(self) -> int | None:
        """Returns None if the index holds everything committed by now, else the argument for `wait`.

        That is the revision to reach, or 0 if the database must be queried for it.
        """
        head = self._driver.peek()
        if head is None:
            return 0
        return None if head <= self._index.revision else head

    def wait(self, lacking: int, told: Told) -> None:
        """Calls `told`, later, once the index holds everything committed before this call."""
        if lacking:
            self._tasks.start(self._reached(lacking, [told]))
            return
        self._next.append(told)
        if self._asked is None and not self._soon:
            # A lone read is queried for at once; when reads come in bursts, wait one loop turn for more.
            if self._shared:
                self._soon = True
                asyncio.get_running_loop().call_soon(self._ask)
            else:
                self._ask()

    async def refresh(self) -> None:
        """Returns when everything that was committed at the call is applied. Raises DriverError."""
        lacking = self.revision_to_reach()
        if lacking is not None:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.wait(lacking, partial(settle, done, None))
            await done

    def _ask(self) -> None:
        self._soon = False
        self._asked, self._next = self._next, []
        self._seen = self._index.revision
        try:
            answer: asyncio.Future[int] = asyncio.ensure_future(self._driver.newest())
        except Exception as error:
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
        self._question = answer
        answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[int]) -> None:
        asked, self._asked = self._asked or [], None
        self._shared = len(asked) + len(self._next) > 1
        if self._next:
            self._ask()  # before the waiting reads are answered: the database works meanwhile
        if answer.cancelled():
            _tell(asked, UnavailableError("the question to the database was given up"))
        elif (error := answer.exception()) is not None:
            _tell(asked, error)
        elif self._seen <= (newest := answer.result()) <= self._index.revision:
            _tell(asked, None)
        elif newest >= self._seen:
            self._tasks.start(self._reached(newest, asked))
        else:
            self._tasks.start(self._doubted(asked))

    async def _reached(self, revision: int, waiting: list[Told]) -> None:
        await _done(self._follower.reach(revision), waiting)

    async def _doubted(self, waiting: list[Told]) -> None:
        """Handles a newest revision below the index's own: the database may have gone back."""

        async def look() -> None:
            await self._follower.doubt()
            await self._follower.reach(await self._driver.newest())

        await _done(look(), waiting)


async def _done(work: Awaitable[None], waiting: list[Told]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        _tell(waiting, UnavailableError("the store is closed"))
        raise
    except Exception as error:
        _tell(waiting, error)
    else:
        _tell(waiting, None)


def _tell(waiting: list[Told], error: BaseException | None) -> None:
    if error is not None and not isinstance(error, Exception):
        error = UnavailableError(type(error).__name__)
    for told in waiting:
        try:
            told(error)
        except Exception:
            log.exception("telling a read failed")
