"""Compaction: in the index first, so that answers change at one moment; in the database in steps after."""

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
    """How far any instance has compacted, as the database has it: applied here as soon as that is known."""

    def __init__(self, driver: Log, applier: RowApplier) -> None:
        self._applier = applier
        self._question: SharedQueries[None, int] = SharedQueries(lambda _: driver.recorded_compaction())

    async def learn(self) -> None:
        """Raises DriverError."""
        recorded = await self._question.answer(None)
        self._applier.forget(min(recorded, self._applier.index.revision))


class Forgetting(Protocol):
    """See `kine.store.apply_rows`."""

    @property
    def index(self) -> Index: ...

    def forget(self, revision: int) -> list[Entry]:
        """Compacts the index and what hangs on it; what is left of the keys concerned."""


class Saving(Protocol):
    """See `kine.store.range_streams`."""

    async def save(self) -> None:
        """Reads what is needed still of what the index has forgotten."""


class Space(Protocol):
    """See `kine.store.writer`."""

    @property
    def no_space(self) -> bool:
        """The database is full."""


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
        self._next: asyncio.Task[None] | None = None  # begins when the one under way has ended
        self._next_revision = 0
        self._unlogged: int | None = None  # the revision that the next log line begins with
        self._log_due = 0.0  # event-loop time
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
            self._next_revision = max(self._next_revision, revision)
            if self._next is None:
                self._next = self._asked.start(self._compact_next(), "compaction")
            await asyncio.shield(self._next)

    async def close(self) -> None:
        """Gives up what clients have asked for."""
        await self._asked.cancel()

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

    async def _compact_next(self) -> None:
        """One for all clients that ask while another is under way, to the last revision of theirs."""
        async with self._one:
            revision, self._next_revision, self._next = self._next_revision, 0, None
            await self._compact_alone(revision)

    async def _compact(self, revision: int) -> None:
        async with self._one:
            await self._compact_alone(revision)

    async def _compact_alone(self, revision: int) -> None:
        index = self._index
        # What is kept back for slow readers must not keep a full database full.
        retain = 0 if self._writer.no_space else self._policy.min_retain
        target = min(revision, index.revision - retain)
        try:
            # From where the database is: the index is ahead of it after a step that failed, and what
            # that has left undone must neither wait for more to compact nor make the next step larger.
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
        """At most a line in ten seconds, however often clients compact: it has all that was done since."""
        if self._unlogged is None:
            self._unlogged = start
        now = asyncio.get_running_loop().time()
        if now >= self._log_due:
            log.info("compacted revisions %d to %d", self._unlogged, reached)
            self._unlogged, self._log_due = None, now + _SELDOM

    def _end_of_step(self, reached: int) -> int:
        """After so many changes: of ids, a leap may leave out millions."""
        index, size = self._index, self._policy.batch_size
        if reached < index.compact_revision:  # the index is ahead by a step that failed
            return index.compact_revision
        return index.nth_change(reached, size) or index.revision

    async def _step(self, revision: int) -> int:
        """What the database has recorded then."""
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
