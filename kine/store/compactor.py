"""Compaction: first in the index, so that answers change at one moment; then in the database, in steps."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import DriverError
from kine.store.errors import CompactedError, FutureRevisionError
from kine.store.shared_queries import SharedQueries

if TYPE_CHECKING:
    from kine.drivers.base import Log
    from kine.store.apply_rows import RowApplier
    from kine.store.index import Entry, Index

log = logging.getLogger(__name__)

_SELDOM = 10.0  # seconds between lines of the log


@dataclass(frozen=True, slots=True)
class Policy:
    interval: float = 0.0  # seconds; 0: only when a client asks
    jitter: int = 0  # percent of the interval
    min_retain: int = 1000  # revisions
    batch_size: int = 1000  # revisions in one transaction


class Recorded:
    """The compact revision recorded in the database by any instance, applied to the index once it is read."""

    def __init__(self, driver: Log, applier: RowApplier) -> None:
        self._applier = applier
        self._question: SharedQueries[None, int] = SharedQueries(lambda _: driver.recorded_compaction())

    async def learn(self) -> None:
        """Reads the recorded compact revision and compacts the index to it. Raises DriverError."""
        recorded = await self._question.answer(None)
        self._applier.forget(min(recorded, self._applier.index.revision))


class Forgetting(Protocol):
    """See `kine.store.apply_rows`."""

    @property
    def index(self) -> Index: ...

    def forget(self, revision: int) -> list[Entry]:
        """Compacts the index and what depends on it; returns the remaining entries of the keys concerned."""


class Saving(Protocol):
    """See `kine.store.range_streams`."""

    async def save(self) -> None:
        """Reads the forgotten rows that open streams still need."""


class Space(Protocol):
    """See `kine.store.writer`."""

    @property
    def no_space(self) -> bool:
        """Whether the database is full."""


class Compactor:
    def __init__(
        self,
        driver: Log,
        policy: Policy,
        *,
        applier: Forgetting,
        streams: Saving,
        writer: Space,
        observe: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._policy = policy
        self._index = applier.index
        self._applier = applier
        self._streams = streams
        self._writer = writer
        self._observe = observe
        self._one = asyncio.Lock()
        self._asked = BackgroundTasks()
        self._next: asyncio.Task[None] | None = None  # starts when the current compaction has ended
        self._next_revision = 0
        self._unlogged: int | None = None  # start revision of the next log line
        self._log_due = 0.0  # event-loop time
        # Versions of survivors that the database has not recorded yet, by id: kept over a failed step.
        self._versions: dict[int, int] = {}

    async def request(self, revision: int) -> None:
        """Serves a client's Compact request. Raises FutureRevisionError, CompactedError, DriverError."""
        index = self._index
        if revision > index.revision:
            raise FutureRevisionError
        if revision <= index.compact_revision:
            raise CompactedError(index.compact_revision)
        if not self._policy.interval:
            # As in etcd, a compaction continues after its client has disconnected or timed out: one that is
            # abandoned halfway, time after time, would never catch up with the writes.
            self._next_revision = max(self._next_revision, revision)
            if self._next is None:
                self._next = self._asked.start(self._compact_next(), "compaction")
            await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancels the compactions that clients have requested."""
        await self._asked.cancel()

    async def run(self) -> None:
        """Compacts in each interval to the revision of one interval ago, as the API server and Go kine do."""
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
            except Exception:  # no error may end compaction: the database would grow for ever
                log.exception("compaction failed, the next one will make up for it")
            target = current

    async def _compact_next(self) -> None:
        """Runs one compaction for all clients that wait for the lock, to the highest revision requested."""
        async with self._one:
            revision, self._next_revision, self._next = self._next_revision, 0, None
            await self._compact_alone(revision)

    async def _compact(self, revision: int) -> None:
        async with self._one:
            await self._compact_alone(revision)

    async def _compact_alone(self, revision: int) -> None:
        index = self._index
        # The revisions retained for slow readers must not keep a full database full.
        retain = 0 if self._writer.no_space else self._policy.min_retain
        target = min(revision, index.revision - retain)
        try:
            # Start where the database is: after a failed step the index is ahead of it, and the work left
            # must neither wait for more to compact nor make the next step larger.
            start = reached = await self._driver.compact_revision()
            while reached < target:
                reached = await self._step(min(self._end_of_step(reached), target))
                await asyncio.sleep(0)
            if reached > start:
                await self._driver.compacted()
                self._log(start, reached)
        except BaseException:
            self._observe("error")
            raise
        self._observe("success")

    def _log(self, start: int, reached: int) -> None:
        """Logs at most one line in ten seconds, which covers all compactions since the line before."""
        if self._unlogged is None:
            self._unlogged = start
        now = asyncio.get_running_loop().time()
        if now >= self._log_due:
            log.info("compacted revisions %d to %d", self._unlogged, reached)
            self._unlogged, self._log_due = None, now + _SELDOM

    def _end_of_step(self, reached: int) -> int:
        """The revision `batch_size` changes further on. Ids are not counted: a leap may skip millions."""
        index, size = self._index, self._policy.batch_size
        if reached < index.compact_revision:  # the index is ahead by a failed step
            return index.compact_revision
        return index.nth_change(reached, size) or index.revision

    async def _step(self, revision: int) -> int:
        """Compacts to `revision`; returns the compact revision that the database then has recorded."""
        before = self._index.compact_revision
        for entry in self._applier.forget(revision):
            if entry.version > 1 and entry.mod > before:
                self._versions[entry.mod] = entry.version
        await self._streams.save()
        recorded = await self._driver.compact(revision, list(self._versions.items()))
        self._versions.clear()
        if recorded > self._index.compact_revision:  # another instance has gone further
            self._applier.forget(min(recorded, self._index.revision))
        return recorded
