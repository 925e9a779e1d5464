"""Compaction: in the index first, so that answers change at one moment; in the database in steps after."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kine.drivers.base import DriverError
from kine.store.ops import CompactedError, FutureRevisionError

if TYPE_CHECKING:
    from kine.drivers.base import Log
    from kine.store.index import Entry, Index

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    interval: float = 0.0  # seconds; 0: only when a client asks
    jitter: int = 0  # percent of the interval
    min_retain: int = 1000  # revisions
    batch_size: int = 1000  # revisions in one transaction


class Compactor:
    def __init__(
        self,
        driver: Log,
        index: Index,
        forget: Callable[[int], list[Entry]],
        policy: Policy,
        observe: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._index = index
        self._forget = forget  # compacts the index and what hangs on it
        self._policy = policy
        self._observe = observe
        self._one = asyncio.Lock()
        self._asked: set[asyncio.Task[None]] = set()
        # Versions of survivors that the database has not recorded yet, by id: kept over a failed step.
        self._versions: dict[int, int] = {}

    async def request(self, revision: int) -> None:
        """A client's Compact. Raises FutureRevisionError, CompactedError, DriverError."""
        index = self._index
        if revision > index.revision:
            raise FutureRevisionError
        if revision <= index.compact_revision:
            raise CompactedError(index.compact_revision)
        if not self._policy.interval:
            # As in etcd, what was begun goes on when the client has gone or has lost patience: a compaction
            # that were given up halfway, time after time, would never catch up with the writes.
            task = asyncio.create_task(self._compact(revision), name="compaction")
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            await asyncio.shield(task)

    async def close(self) -> None:
        """Gives up what clients have asked for."""
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def run(self) -> None:
        """Compacts to where the revision was an interval ago, as the API server and Go kine do."""
        policy = self._policy
        target = self._index.revision
        while True:
            spread = policy.interval * policy.jitter / 100
            await asyncio.sleep(policy.interval + random.uniform(-spread, spread))  # noqa: S311 - not a secret
            current = self._index.revision
            try:
                await self._compact(target)
            except DriverError as error:
                log.warning("compaction failed, the next one will make up for it: %s", error)
            except Exception:  # nothing may end compaction for good: the database would grow without end
                log.exception("compaction failed, the next one will make up for it")
            target = current

    async def _compact(self, revision: int) -> None:
        index = self._index
        async with self._one:
            target = min(revision, index.revision - self._policy.min_retain)
            try:
                # From where the database is: the index is ahead of it after a step that failed, and what
                # that has left undone must neither wait for more to compact nor make the next step larger.
                start = reached = await self._driver.compact_revision()
                while reached < target:
                    reached = await self._step(min(reached + self._policy.batch_size, target))
                    await asyncio.sleep(0)
                if reached > start:
                    await self._driver.compacted()
                    log.info("compacted revisions %d to %d", start, reached)
            except BaseException:
                self._observe("error")
                raise
            self._observe("success")

    async def _step(self, revision: int) -> int:
        """What the database has recorded then."""
        before = self._index.compact_revision
        for entry in self._forget(revision):
            if entry.version > 1 and entry.mod > before:
                self._versions[entry.mod] = entry.version
        recorded = await self._driver.compact(revision, list(self._versions.items()))
        self._versions.clear()
        if recorded > self._index.compact_revision:  # another instance has gone further
            self._forget(min(recorded, self._index.revision))
        return recorded
