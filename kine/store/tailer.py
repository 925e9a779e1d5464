"""Keeps the index in step with what others append to the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from kine.drivers.base import DriverError, Log, Tail

if TYPE_CHECKING:
    from kine.store.index import Index
    from kine.store.writer import Writer

log = logging.getLogger(__name__)

_RETRY_FIRST = 0.1  # seconds
_RETRY_LAST = 2.0


class Tailer:
    def __init__(
        self, driver: Log, index: Index, writer: Writer, apply: Callable[[Tail], None], batch: int
    ) -> None:
        self._driver = driver
        self._index = index
        self._writer = writer
        self._apply = apply
        self._batch = batch
        self._one = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._next_check: asyncio.Task[None] | None = None

    def fresh(self) -> asyncio.Task[None] | None:
        """None if the index holds all that is committed now; else what to wait for until it does.

        Everything committed before the call is what a linearizable read must see.
        """
        head = self._driver.peek()
        if head is not None:
            if head <= self._index.revision:
                return None
            return asyncio.ensure_future(self.reach(head))
        # A question under way may have been answered before this call: share the one after it.
        if self._next_check is None:
            self._next_check = asyncio.ensure_future(self._check(self._checking))
        return self._next_check

    async def _check(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait((running,))
        self._checking, self._next_check = self._next_check, None
        await self.reach(await self._driver.newest())

    async def reach(self, revision: int) -> None:
        """Like `catch_up`, for everyone but the writer: what is ahead is most likely our own commit."""
        while self._index.revision < revision and self._writer.committing:
            await self._writer.settled()
        await self.catch_up(revision)

    async def catch_up(self, revision: int) -> None:
        """Returns when everything up to `revision` is applied. Raises DriverError."""
        index = self._index
        while index.revision < revision:
            async with self._one:
                if index.revision < revision:
                    self._apply(await self._driver.tail(index.revision, self._batch))

    async def run(self) -> None:
        index = self._index
        retry = 0.0
        while True:
            try:
                await self._driver.changed(index.revision)
                if self._writer.committing:
                    await self._writer.settled()
                    continue
                async with self._one:
                    self._apply(await self._driver.tail(index.revision, self._batch))
                if retry:
                    log.info("the database answers again")
                    retry = 0.0
            except DriverError as error:
                if not retry:
                    log.warning("following the database failed, trying on: %s", error)
                retry = min(_RETRY_LAST, retry * 2 or _RETRY_FIRST)
                await asyncio.sleep(retry)
            except Exception:
                log.exception("following the database failed")
                retry = _RETRY_LAST
                await asyncio.sleep(retry)
