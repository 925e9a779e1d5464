"""The store: an index and a value cache in front of a log of rows, one writer, one hub of watchers.

Reads are answered from memory after one cheap question to the database, whether anyone has committed
anything that is not applied here yet. That makes them linearizable across all instances on one database;
`serializable` leaves the question out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from kine.drivers.base import DriverError, Log, Recalling, Size, UnavailableError, UnknownOutcomeError
from kine.drivers.waiting import until_open
from kine.futures import settle
from kine.store.answers import Answers
from kine.store.applying import Applier
from kine.store.compactor import Compactor, Policy
from kine.store.expiry import Leases
from kine.store.freshness import Freshness
from kine.store.hub import Hub
from kine.store.index import Entry, Index
from kine.store.loading import bootstrap, whole_index
from kine.store.ops import (
    CompactedError,
    LeaseNotFoundError,
    Op,
    Put,
    Range,
    RangeResult,
    Swap,
    TimedOutError,
    Txn,
    TxnResult,
)
from kine.store.plan import MissingValuesError, Plan, check_revision, plan
from kine.store.reading import Reading
from kine.store.reads import GoneError, Reads
from kine.store.request import Done, Frames, Planner
from kine.store.swap import Codec, Swapping
from kine.store.tailer import Tailer, overtaken
from kine.store.values import Values, stored_value, value_of
from kine.store.watcher import Watcher
from kine.store.writer import Writer

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETRIES = 8  # of a read that compaction overtook


@dataclass(frozen=True, slots=True)
class Settings:
    value_cache_bytes: int = 256 * 1024 * 1024
    poll_batch_size: int = 500
    compaction: Policy = field(default_factory=Policy)


@dataclass(slots=True)
class Observers:
    """Where the store reports what it does; by default nowhere."""

    batch: Callable[[int], None] = lambda size: None
    compaction: Callable[[str], None] = lambda result: None


class Store:
    def __init__(self, driver: Log, settings: Settings, observers: Observers | None = None) -> None:
        observers = observers or Observers()
        self._driver = driver
        self._settings = settings
        self.index = Index()
        self.values = Values(settings.value_cache_bytes)
        if isinstance(driver, Recalling):
            driver.recall = self._recall
        self._reads = Reads(self.index, self.values, driver.values, self._learn_compaction)
        self.lists = self._reads.lists
        self._answers = Answers(self.index, self._reads)
        self.hub = Hub(self.index, self.values, self._reads)
        self.writer = Writer(driver, self, observers.batch)
        self.leases = Leases(driver, self.index, self.writer.submit, self.refresh)
        self._applier = Applier(self.index, self.values, self.lists, self.hub.publish, self.leases.seen)
        self.committed = self._applier.committed  # as the writer's `State` has it, without a call in between
        self._tailer = Tailer(
            driver,
            self.index,
            self.writer,
            self._applier.tailed,
            self._reload,
            self._rewind,
            settings.poll_batch_size,
        )
        self._freshness = Freshness(driver, self.index, self._tailer)
        self._compactor = Compactor(
            driver, self.index, self._applier.forget, settings.compaction, observers.compaction
        )
        self.no_space = False  # the database was full at the last write
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: asyncio.Task[None] | None = None

    # ---- from start to stop

    async def open(self) -> None:
        """Loads the index and starts to serve. The driver has been opened. Raises DriverError.

        A database that goes away meanwhile is waited for, as for one that is not there yet.
        """
        await until_open(self._begin, (UnavailableError, UnknownOutcomeError), "the database")
        self._writing = asyncio.create_task(self.writer.run(), name="writer")
        self._tasks = [
            asyncio.create_task(self._tailer.run(), name="tailer"),
            asyncio.create_task(self.leases.run(), name="leases"),
        ]
        if self._settings.compaction.interval > 0:
            self._tasks.append(asyncio.create_task(self._compactor.run(), name="compactor"))

    async def close(self) -> None:
        """Finishes the writes that were accepted, then stops. The driver stays open."""
        self.writer.stop()
        if self._writing is not None:
            await self._writing
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._compactor.close()

    async def _begin(self) -> None:
        await self._load()
        await bootstrap(self._driver, self._applier, self._tailer.catch_up)

    async def _load(self) -> None:
        index = self.index
        await self._reload()
        tail = await self._driver.tail(index.revision, self._settings.poll_batch_size)
        while tail.rows or overtaken(tail, index.revision):
            if overtaken(tail, index.revision):
                await self._reload()
            else:
                self._applier.tailed(tail)
            tail = await self._driver.tail(index.revision, self._settings.poll_batch_size)
        index.revision = max(index.revision, tail.head)
        self._applier.forget(tail.compact_revision)
        await self.leases.load()
        log.info(
            "loaded %d keys from %d rows, revision %d, compacted to %d",
            len(index), len(index.log), index.revision, index.compact_revision,
        )  # fmt: skip

    async def _reload(self) -> None:
        """Reads the whole index from the database, at the start and when compaction has overtaken us."""
        index = await whole_index(self._driver, self._applier.entry)
        before = self.index.revision
        self.index.adopt(index)
        self.hub.overtaken(before)

    async def _rewind(self) -> None:
        """Commits that were seen here are no more: whoever was told of them must be told to look again."""
        index = await whole_index(self._driver, partial(self._applier.entry, anew=True))
        before = self.index.revision
        self.index.revision = self.index.compact_revision = 0
        self.index.adopt(index)
        self.values.clear()
        self.lists.clear()
        self.hub.rewound(before)

    # ---- freshness

    def lacking(self) -> int | None:
        """None if everything committed by now is applied; else what `read` wants."""
        return self._freshness.lacking()

    async def catch_up(self, revision: int) -> None:
        await self._tailer.catch_up(revision)

    async def doubt(self) -> None:
        await self._tailer.doubt()

    async def rewind(self) -> None:
        await self._tailer.rewind()

    async def refresh(self) -> None:
        """Returns when everything that was committed at the call is applied. Raises DriverError."""
        lacking = self._freshness.lacking()
        if lacking is not None:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._freshness.wait(lacking, partial(settle, done, None))
            await done

    # ---- reads

    def range(self, op: Range) -> RangeResult | Awaitable[RangeResult]:
        """As of what is applied here; at once where it can. Raises StoreError, DriverError."""
        index = self.index
        if op.revision > 0:
            check_revision(op, index)
        revision = _revision(op, index)
        answer = self._reads.range(op, revision, index.revision)
        return answer if type(answer) is RangeResult else self._range_retried(answer, op)  # type: ignore[arg-type]

    def read(
        self,
        lacking: int,
        op: Range,
        encode: Callable[[RangeResult], T | Awaitable[T]],
        failed: Callable[[Exception], Exception],
    ) -> asyncio.Future[T]:
        """As of everything committed by now, where `lacking` says that it is not all applied.

        A future for what `encode` makes of the result; it fails with what `failed` makes of an error.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._freshness.wait(lacking, Reading(op, self.range, encode, failed, future))
        return future

    async def _range_retried(self, answer: Awaitable[RangeResult], op: Range) -> RangeResult:
        for _ in range(_RETRIES):
            try:
                return await answer
            except GoneError:
                # Compaction came between the index and the rows: look again at what is there now.
                index = self.index
                check_revision(op, index)
                again = self._reads.range(op, _revision(op, index), index.revision)
                if isinstance(again, RangeResult):
                    return again
                answer = again
        raise TimedOutError

    # ---- writes

    async def txn(self, txn: Txn) -> TxnResult:
        """Raises StoreError, DriverError."""
        index = self.index
        ttl_of = self.leases.ttl_of
        value_of = self._value_of

        def planner(pinned: Frames) -> Plan:
            return plan(txn, index, lambda entry: value_of(entry, pinned), ttl_of)

        if _read_only(txn):
            return await self._read(planner)
        await self._find_leases(txn)
        done = await self.writer.submit(planner)
        try:
            return await self._answers.branch(done.plan.branch, done)
        except (DriverError, CompactedError) as error:
            if not done.ids:
                raise
            # It has landed; what it should tell besides cannot be read. That is no refusal.
            raise TimedOutError from error

    def swap(self, op: Swap, codec: Codec[T]) -> asyncio.Future[T]:
        """A future for what the codec makes of the outcome, errors included.

        Raises TooManyRequestsError at once. A lease must be known.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.writer.queue(Swapping(op, self.index, self._reads, self.leases.ttl_of, codec, future))
        return future

    async def _read(self, planner: Planner) -> TxnResult:
        """A transaction without writes: it need not queue behind those of others."""
        pinned: Frames = {}
        await self.refresh()
        while True:
            try:
                made = planner(pinned)
            except MissingValuesError as missing:
                pinned = await self.fetch_for_plan(missing.entries)
            else:
                return await self._answers.branch(made.branch, Done(made, (), self.index.revision))

    async def _find_leases(self, txn: Txn) -> None:
        """Another instance may have granted what a put names; unknown ones are refused by the plan."""
        for op in (*txn.success, *txn.failure):
            if isinstance(op, Put):
                if op.lease and not self.leases.known(op.lease):
                    with contextlib.suppress(LeaseNotFoundError):
                        await self.leases.find(op.lease)
            elif isinstance(op, Txn):
                await self._find_leases(op)

    def _value_of(self, entry: Entry, pinned: Frames) -> bytes | None:
        cached = self.values.get(entry.mod) or pinned.get(entry.mod)
        return None if cached is None else value_of(cached)

    async def fetch_for_plan(self, entries: list[Entry]) -> Frames:
        try:
            return await self._reads.fetch(entries)
        except GoneError:
            return {}  # the plan is made anew, on what is there then

    # ---- compaction

    async def compact(self, revision: int) -> None:
        """Raises FutureRevisionError, CompactedError, DriverError."""
        await self.refresh()
        await self._compactor.request(revision)

    async def _learn_compaction(self) -> None:
        recorded = await self._driver.compact_revision()
        self._applier.forget(min(recorded, self.index.revision))

    # ---- the rest

    def watch(self, watcher: Watcher) -> None:
        self.hub.add(watcher)

    async def size(self) -> Size:
        return await self._driver.size()

    async def defragment(self) -> None:
        await self._driver.defragment()

    def snapshot(self) -> AsyncIterator[bytes] | None:
        return self._driver.snapshot()

    def _recall(self, revision: int) -> bytes | None:
        encoded = self.values.get(revision)
        return None if encoded is None else stored_value(encoded)


def _revision(op: Range, index: Index) -> int:
    """As in etcd, a negative revision asks for the present, too."""
    return op.revision if op.revision > 0 else index.revision


def _read_only(txn: Txn) -> bool:
    return not any(_writes(op) for op in (*txn.success, *txn.failure))


def _writes(op: Op) -> bool:
    return not _read_only(op) if isinstance(op, Txn) else not isinstance(op, Range)
