"""The store: an index and a value cache in front of a log of rows, one writer, one watch hub.

Reads are answered from memory after one cheap query that asks the database for its newest revision; rows
that are not applied yet are read first. That makes reads linearizable across all instances on one database.
`serializable` reads skip the query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from kine.drivers.base import (
    PATIENCE,
    BoundedIds,
    DriverError,
    Log,
    RecallsValues,
    Size,
    UnavailableError,
    UnknownOutcomeError,
)
from kine.drivers.wait_for_database import until_open
from kine.fair_queue import FairTurns
from kine.store.apply_rows import RowApplier
from kine.store.compactor import Compactor, Policy, Recorded
from kine.store.compare_and_swap import CompareAndSwap, ResponseEncoder
from kine.store.defragmentation import Defragmenter
from kine.store.errors import (
    AnswerTooLargeError,
    CompactedError,
    LeaseNotFoundError,
    StoreError,
    TimedOutError,
)
from kine.store.freshness import Freshness
from kine.store.index import Entry, Index
from kine.store.leases import Leases
from kine.store.linearizable_range import LinearizableRange, RangeEncoder
from kine.store.load_index import Loader, LoadProgress, bootstrap
from kine.store.operations import (
    LARGEST_ANSWER,
    CompareTarget,
    Delete,
    Op,
    Put,
    Range,
    RangeResult,
    Swap,
    Txn,
    TxnResult,
)
from kine.store.pending_write import CommitOutcome, Frames, Planner
from kine.store.range_cache import RangeCache
from kine.store.range_select import GoneError, RangeReader, UnreadValues
from kine.store.range_streams import Part, RangeStreams
from kine.store.tailer import Tailer, overtaken
from kine.store.txn_plan import DecidedTxn, MissingValuesError, check_revision, plan
from kine.store.txn_response import TxnResponses, WorkLimit
from kine.store.value_cache import ValueCache, value_of
from kine.store.watch_hub import WatchHub
from kine.store.watcher import Watcher
from kine.store.write_queue import WriteQueue
from kine.store.writer import Writer

log = logging.getLogger(__name__)
C = TypeVar("C")
T = TypeVar("T")

_PATIENCE = 30.0  # seconds for which a read that compaction overtakes is tried again
_EVERYTHING_BLOCK = 4_000  # keys


@dataclass(frozen=True, slots=True)
class StoreSettings:
    value_cache_bytes: int = 256 * 1024 * 1024
    poll_batch_size: int = 500
    compaction: Policy = field(default_factory=Policy)
    max_leases: int = 0  # 0: no limit
    processes: int = 1  # that serve clients of one address
    patience: float = PATIENCE  # seconds to wait for a database that goes away while it is loaded


@dataclass(slots=True)
class Observers:
    """Where the store reports what it does; by default nowhere."""

    batch: Callable[[int], None] = lambda size: None
    compaction: Callable[[str], None] = lambda result: None
    waiting: Callable[[str], None] = lambda why: None


class Store:
    def __init__(self, driver: Log, settings: StoreSettings, observers: Observers | None = None) -> None:
        """Creates the state first; then its parts that apply changes, read, follow the log and write."""
        observers = observers or Observers()
        self._driver = driver
        self._settings = settings
        self._waiting = observers.waiting
        self.index = Index()
        self.values = ValueCache(settings.value_cache_bytes)
        self.lists = RangeCache(self.index, self.values)
        self.turns = FairTurns()
        self._queue = WriteQueue()
        if isinstance(driver, RecallsValues):
            driver.recall = self.values.stored

        self._applier = RowApplier(self.index, self.values, self.lists)
        self._recorded = Recorded(driver, self._applier)
        self._reads = RangeReader(
            self.index, self.values, self.lists, driver.values, self._recorded.learn, self.turns
        )
        self._answers = TxnResponses(self.index, self._reads)
        self.hub = WatchHub(self.index, self.values, self._reads, self.turns)
        self._streams = RangeStreams(self.index, self.values, self._reads, driver.values, self.turns)

        self._loader = Loader(driver, self._applier, self.hub, self._streams)
        self._tailer = Tailer(
            driver, self._applier, self._loader, self._queue, batch=settings.poll_batch_size
        )
        self._freshness = Freshness(driver, self.index, self._tailer)
        self.leases = Leases(
            driver,
            self.index,
            self._queue.submit,
            self._freshness.refresh,
            self.turns,
            most=settings.max_leases,
            processes=settings.processes,
        )
        self.writer = Writer(
            driver,
            self._queue,
            applier=self._applier,
            tailer=self._tailer,
            freshness=self._freshness,
            values=self._reads,
            observe=observers.batch,
        )
        self._compactor = Compactor(
            driver,
            settings.compaction,
            applier=self._applier,
            streams=self._streams,
            writer=self.writer,
            observe=observers.compaction,
        )
        self._defragmenter = Defragmenter(driver.defragment, settings.processes)
        self._applier.tell(self.hub, self.leases, self._streams)
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: asyncio.Task[None] | None = None

    @property
    def loading(self) -> LoadProgress:
        return self._loader.progress

    @property
    def no_space(self) -> bool:
        """Whether the database was full at the last write."""
        return self.writer.no_space

    def forget_no_space(self) -> None:
        """Clears `no_space`; the next write finds out whether the database is still full."""
        self.writer.no_space = False

    # ---- from start to stop

    async def open(self) -> None:
        """Loads the index and starts to serve. The driver must be open. Raises DriverError.

        If the database goes away meanwhile, waits for it as at the first connect.
        """
        await until_open(
            self._begin,
            (UnavailableError, UnknownOutcomeError),
            "the database",
            patience=self._settings.patience,
            on_wait=self._waiting,
        )
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
        await self._defragmenter.close()

    async def _begin(self) -> None:
        await self._load()
        await bootstrap(self._driver, self._applier, self._tailer.catch_up)

    async def _load(self) -> None:
        index = self.index
        await self._loader.reload()
        tail = await self._driver.tail(index.revision, self._settings.poll_batch_size)
        while tail.rows or overtaken(tail, index.revision):
            if overtaken(tail, index.revision):
                await self._loader.reload(
                    f"others have compacted to revision {tail.compact_revision} meanwhile"
                )
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

    # ---- freshness

    def revision_to_reach(self) -> int | None:
        """Returns None if everything committed by now is applied, else the argument `lacking` for `read`."""
        return self._freshness.revision_to_reach()

    def refresh(self, *, past: bool = False) -> Awaitable[object]:
        """Returns when everything that was committed at the call is applied. Raises DriverError.

        `past`: includes compactions, which only requests for a past revision need.
        """
        if past and not self.knows_compaction():
            return asyncio.gather(self._recorded.learn(), self._freshness.refresh())
        return self._freshness.refresh()

    @property
    def exhausted(self) -> str:
        """Why every write fails until an operator intervenes; empty if no such reason is known."""
        return self._driver.exhausted(self.index.revision) if isinstance(self._driver, BoundedIds) else ""

    def knows_compaction(self) -> bool:
        """Whether the recorded compact revision is known without a query; if so, it is applied."""
        recorded = self._driver.peek_recorded_compaction()
        if recorded is None:
            return False
        if recorded > self.index.compact_revision:
            self._applier.forget(min(recorded, self.index.revision))
        return True

    # ---- reads

    def range(self, op: Range, most: int = LARGEST_ANSWER) -> RangeResult | Awaitable[RangeResult]:
        """Answers a range from the applied state, at once where possible. Raises StoreError, DriverError."""
        index = self.index
        if op.revision > 0:
            check_revision(op, index)
        revision = _revision(op, index)
        answer = self._reads.range(op, revision, index.revision, most)
        if type(answer) is RangeResult:
            return answer
        return UnreadValues(answer, partial(self._range_retried, op=op, most=most))  # type: ignore[arg-type]

    def stream(self, op: Range, most: int) -> AsyncGenerator[Part, None]:
        """Streams a range of the applied state: see `RangeStreams.parts`. Raises StoreError, DriverError."""
        return self._streams.parts(op, most, self.range)

    def expected(self, op: Range) -> int:
        """Estimates the bytes of the range's answer."""
        if op.end is not None:
            return self._reads.expected(op)
        return 0 if op.count_only or op.keys_only else self._reads.expected_of(op.key, op.revision)

    def expected_of(self, txn: Txn) -> int:
        """Estimates the bytes of values the transaction will read, for its compares and its answer."""
        read = 0
        for compare in txn.compares:
            if compare.target == CompareTarget.VALUE:
                read += self.expected(Range(compare.key, compare.end))
        return read + max(sum(map(self._expected_by, ops)) for ops in (txn.success, txn.failure))

    def _expected_by(self, op: Op) -> int:
        if isinstance(op, Put):
            return self._reads.expected_of(op.key) if op.prev_kv or op.ignore_value else 0
        if isinstance(op, Delete):
            return self.expected(Range(op.key, op.end)) if op.prev_kv else 0
        if isinstance(op, Range):
            return self.expected(op)
        return self.expected_of(op)

    def read(
        self,
        lacking: int,
        op: Range,
        codec: RangeEncoder[C, T],
        context: C,
    ) -> asyncio.Future[T]:
        """Linearizable range read that waits until committed changes are applied.

        `lacking` is what `revision_to_reach` returned. Returns a future for the response that the codec makes
        of the result or the error.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._freshness.wait(lacking, LinearizableRange(op, self.range, codec, context, future))
        return future

    async def everything(self) -> tuple[int, list[Entry]]:
        """Returns the newest committed revision, and all live entries at it in order of mod revision.

        Raises CompactedError, DriverError.
        """
        await self.refresh()
        revision, found, start = self.index.revision, list[Entry](), b"\0"
        while block := self.index.scan(start, b"", revision, _EVERYTHING_BLOCK):
            found += block
            start = block[-1].key + b"\0"
            await asyncio.sleep(0)
            if revision < self.index.compact_revision:
                raise CompactedError(self.index.compact_revision)
        found.sort(key=lambda entry: entry.mod)
        return revision, found

    async def frames(self, entries: list[Entry]) -> list[tuple[Entry, bytes]]:
        """Returns each entry with its frame. Raises CompactedError if a row was compacted, DriverError."""
        try:
            return await self._reads.frames(entries)
        except GoneError:
            raise CompactedError(self.index.compact_revision) from None

    async def _range_retried(self, answer: Awaitable[RangeResult], op: Range, most: int) -> RangeResult:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                return await answer
            except GoneError:
                if loop.time() > until:
                    raise TimedOutError from None
                # Compacted between the look-ups in index and database: start again on the current index.
                index = self.index
                check_revision(op, index)
                again = self._reads.range(op, _revision(op, index), index.revision, most)
                if isinstance(again, RangeResult):
                    return again
                answer = again

    # ---- writes

    async def txn(self, txn: Txn, most: int = LARGEST_ANSWER) -> TxnResult:
        """Runs a transaction; its answer takes `most` bytes at most. Raises StoreError, DriverError."""
        index = self.index
        meter = WorkLimit(most, self.turns, txn.client)
        ttl_of = self.leases.ttl_of
        value_of = self._value_of

        def planner(pinned: Frames) -> DecidedTxn:
            return plan(txn, index, lambda entry: value_of(entry, pinned), ttl_of)

        past = _of_the_past(txn)
        if _read_only(txn):
            return await self._read(planner, meter, most, _compares_ranges(txn), txn.client, past=past)
        if past:
            await self.refresh(past=True)
        await self._find_leases(txn)
        if has_ranges(txn):
            await self._rehearse(txn, most)
        done = await self._queue.submit(planner, txn.client)
        try:
            return await self._answers.branch(done.plan.branch, done, meter)
        except (DriverError, CompactedError, AnswerTooLargeError) as error:
            if not done.ids:
                raise
            # It is committed, but its response cannot be read: that must not look like a refusal.
            raise TimedOutError from error

    def swap(self, op: Swap, codec: ResponseEncoder[C, T], context: C) -> asyncio.Future[T]:
        """Queues a compare-and-swap; returns a future for the response that the codec makes of its outcome.

        Raises TooManyRequestsError at once. The lease, if any, must be known here: see `refresh_lease`.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(
            CompareAndSwap(op, self.index, self._reads, self.leases.ttl_of, codec, context, future)
        )
        return future

    async def _rehearse(self, txn: Txn, most: int) -> None:
        """Runs the transaction's ranges before anything is written, to find an answer that is too large.

        Raises AnswerTooLargeError.
        """
        for ops in (txn.success, txn.failure):
            meter = WorkLimit(most, self.turns, txn.client)
            for op in ops:
                if isinstance(op, Range) and op.end is not None:
                    revision = _revision(op, self.index)
                    try:
                        check_revision(op, self.index)
                        await self._answers.range(op, revision, revision, meter)
                    except AnswerTooLargeError:
                        raise
                    except (StoreError, DriverError):
                        pass  # the transaction itself will report it
                elif isinstance(op, Txn):
                    await self._rehearse(op, meter.left)

    async def _read(
        self, planner: Planner, meter: WorkLimit, most: int, compares: bool, client: object, *, past: bool
    ) -> TxnResult:
        """Runs a transaction without writes, which does not wait in the write queue."""
        pinned: Frames = {}
        await (self.refresh(past=True) if past else self._freshness.refresh())
        while True:
            if compares:  # possibly many keys or large values: one such transaction in a turn of the loop
                await self.turns.next(client)
            try:
                made = planner(pinned)
            except MissingValuesError as missing:
                pinned = await self._reads.frames_there(missing.entries, most)
            else:
                done = CommitOutcome(made, (), self.index.revision)
                return await self._answers.branch(made.branch, done, meter)

    async def refresh_lease(self, lease_id: int) -> None:
        """Looks up a put's lease, which another instance may have granted or revoked. Raises DriverError.

        A lease that is still unknown is refused by the plan.
        """
        with contextlib.suppress(LeaseNotFoundError):
            await self.leases.find(lease_id)

    async def _find_leases(self, txn: Txn) -> None:
        for op in (*txn.success, *txn.failure):
            if isinstance(op, Put):
                if op.lease:
                    await self.refresh_lease(op.lease)
            elif isinstance(op, Txn):
                await self._find_leases(op)

    def _value_of(self, entry: Entry, pinned: Frames) -> bytes | None:
        cached = self.values.get(entry.mod) or pinned.get(entry.mod)
        return None if cached is None else value_of(cached)

    # ---- compaction

    async def compact(self, revision: int) -> None:
        """Compacts to `revision`. Raises FutureRevisionError, CompactedError, DriverError."""
        await self.refresh(past=True)
        await self._compactor.request(revision)

    # ---- the rest

    def watch(self, watcher: Watcher) -> None:
        self.hub.add(watcher)

    async def size(self) -> Size:
        return await self._driver.size()

    async def defragment(self) -> None:
        await self._defragmenter.request()

    def folder(self) -> str | None:
        return self._driver.folder()


def _revision(op: Range, index: Index) -> int:
    """The revision to read at: as in etcd, a negative one means the newest, too."""
    return op.revision if op.revision > 0 else index.revision


def has_ranges(txn: Txn) -> bool:
    """Whether the transaction reads more than single keys."""
    return any(
        has_ranges(op) if isinstance(op, Txn) else isinstance(op, Range) and op.end is not None
        for op in (*txn.success, *txn.failure)
    )


def _of_the_past(txn: Txn) -> bool:
    return any(
        _of_the_past(op) if isinstance(op, Txn) else isinstance(op, Range) and op.revision > 0
        for op in (*txn.success, *txn.failure)
    )


def _compares_ranges(txn: Txn) -> bool:
    return any(compare.end is not None for compare in txn.compares) or any(
        isinstance(op, Txn) and _compares_ranges(op) for op in (*txn.success, *txn.failure)
    )


def _read_only(txn: Txn) -> bool:
    return not any(_writes(op) for op in (*txn.success, *txn.failure))


def _writes(op: Op) -> bool:
    return not _read_only(op) if isinstance(op, Txn) else not isinstance(op, Range)
