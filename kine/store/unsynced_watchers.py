"""Unsynced watchers: they read the log from where they stand, at their client's pace, until they are synced.

Each stream with unsynced watchers has one task, which always advances the watcher that is furthest behind,
until all are synced. All streams take turns (see `kine.fair_queue`): however many watchers are behind, one
turn of the event loop does one slice of that work. Rows that are not cached are fetched a few at a time, and
kept for the next watcher that wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from itertools import count
from typing import TYPE_CHECKING

from kine.drivers.base import DriverError
from kine.fair_queue import FairSemaphore
from kine.store.index import in_range
from kine.store.range_select import GoneError
from kine.store.value_cache import bare_frame, varint
from kine.store.watcher import EncodedEvents, WatcherState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kine.store.index import Entry
    from kine.store.range_select import RangeReader
    from kine.store.value_cache import ValueCache
    from kine.store.watch_hub import WatchHub
    from kine.store.watcher import EventSink, Watcher

log = logging.getLogger(__name__)

_SCAN = 2_000  # entries of the log looked at in one turn of the loop
_LEAST = 20  # entries that a watcher counts as, however few it looks at
_SEND = 1_000  # events in one response: etcd's limit, which counts revisions
_RETRY = 0.5  # seconds, when values cannot be read
_FIRST_ROWS = 32  # in the first fetch, while their size is not known
_MOST_ROWS = 500
_FETCHED_BYTES = 1024 * 1024  # in later fetches, about
_FETCHING = 4  # streams that fetch rows at once
_RECENT_BYTES = 4 * 1024 * 1024  # of rows kept for the next watcher


class PastValues:
    """Frames of past revisions for all unsynced watchers: from the cache, or read a few rows at a time."""

    def __init__(self, values: ValueCache, reads: RangeReader) -> None:
        self._values = values
        self._reads = reads
        self._recent: dict[int, bytes] = {}
        self._size = 0
        self._rows = _FIRST_ROWS  # rows per fetch
        self._fetching = FairSemaphore(_FETCHING)

    def get(self, revision: int) -> bytes | None:
        return self._values.get(revision) or self._recent.get(revision)

    def clear(self) -> None:
        self._recent = {}  # a new dict: fetches under way add their rows to the old one
        self._size = 0

    async def fetch(self, watcher: Watcher, wanted: list[Entry]) -> None:
        """Fetches missing frames of the first of `wanted`, as many as go into one response.

        Fetches fewer if the watcher's stream is full by then. Raises GoneError, DriverError.
        """
        found: dict[int, bytes] = {}  # not in `_recent` yet, where other watchers could evict them
        recent, size = self._recent, 0
        try:
            async with self._fetching.one(watcher.sink.client):
                while size < watcher.answer_bytes and not watcher.sink.full:
                    lacking = self._lacking(watcher, wanted, found)
                    if not lacking:
                        break
                    fetched = await self._reads.fetch(lacking)
                    found.update((entry.mod, fetched[entry.mod]) for entry in lacking)
                    read = sum(len(fetched[entry.mod]) for entry in lacking)
                    size += read
                    self._learn_size(len(lacking), read)
        finally:
            if recent is self._recent:
                self._size += sum(len(found[revision]) for revision in found.keys() - recent.keys())
                recent.update(found)

    def _lacking(self, watcher: Watcher, wanted: list[Entry], found: dict[int, bytes]) -> list[Entry]:
        """The first entries without a frame, as many as one fetch reads."""

        def get(revision: int) -> bytes | None:
            return found.get(revision) or self.get(revision)

        lacking: list[Entry] = []
        for entry in wanted:
            lacking += missing(watcher, (entry,), get)
            if len(lacking) >= self._rows:
                break
        return lacking

    def _learn_size(self, rows: int, size: int) -> None:
        self._rows = max(1, min(rows * _FETCHED_BYTES // max(1, size), 4 * max(rows, self._rows), _MOST_ROWS))

    def served(self, watcher: Watcher, wanted: list[Entry]) -> int:
        """How many of the first `wanted` have all their frames."""
        for position, entry in enumerate(wanted):
            if missing(watcher, (entry,), self.get):
                return position
        return len(wanted)

    def fit(self) -> None:
        """Evicts the oldest rows."""
        while self._size > _RECENT_BYTES:
            oldest = next(iter(self._recent))
            self._size -= len(self._recent.pop(oldest))


class UnsyncedWatchers:
    """Advances the unsynced watchers of one stream until they are synced."""

    def __init__(self, hub: WatchHub, sink: EventSink) -> None:
        self._hub = hub
        self._sink = sink
        self._behind: list[tuple[int, int, Watcher]] = []  # a heap, by the revision to continue from
        self._order = count()
        self._new = False  # a watcher was added that starts in the past
        self._task = asyncio.ensure_future(self._run())

    def add(self, watcher: Watcher, *, new: bool = False) -> None:
        self._new = self._new or new
        if len(self._behind) > 2 * self._sink.lagging + _LEAST:  # most of them were cancelled
            self._behind = [each for each in self._behind if each[2].state is WatcherState.UNSYNCED]
            heapq.heapify(self._behind)
        heapq.heappush(self._behind, (watcher.next, next(self._order), watcher))

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        hub, sink = self._hub, self._sink
        try:
            while sink.lagging:
                if sink.full:
                    await sink.drain()
                    continue
                if self._new:
                    self._new = False
                    # Another instance may have compacted its start revision, which shows in no row.
                    with contextlib.suppress(DriverError):
                        await hub.learn_compaction()
                await hub.turns.next(sink.client)
                work = _SCAN
                while work > 0 and sink.lagging and not sink.full and not self._new:
                    _, _, watcher = heapq.heappop(self._behind)
                    if watcher.state is WatcherState.UNSYNCED:  # else its client has cancelled it
                        work -= await self._bring_on(watcher)
        except Exception:
            log.exception("a stream's watchers could not be served")
            sink.failed()
        hub.followed(sink, self)

    async def _bring_on(self, watcher: Watcher) -> int:
        """Sends the watcher one response; returns the cost in log entries looked at."""
        hub, sink, past = self._hub, self._sink, self._hub.past
        index = hub.index
        if watcher.next < index.compact_revision or watcher.epoch != hub.epoch:
            hub.end_compacted(watcher)
            return _LEAST
        if watcher.next > index.revision:
            hub.caught_up(watcher)
            return _LEAST
        position = index.since(watcher.next)
        block = index.log[position : position + _SCAN]
        reached = block[-1].mod + 1 if position + _SCAN < len(index.log) else index.revision + 1
        wanted = wanted_by(watcher, block)
        if len(wanted) > _SEND:
            del wanted[_SEND:]
            reached = wanted[-1].mod + 1
        if missing(watcher, wanted, past.get):
            try:
                await past.fetch(watcher, wanted)
            except GoneError:
                # Compacted, most likely by another instance, which this one has not learned yet.
                await asyncio.sleep(_RETRY)
            except DriverError as error:
                log.debug("a watcher waits for the database: %s", error)
                await asyncio.sleep(_RETRY)
            served = past.served(watcher, wanted)
            if served < len(wanted):
                reached = wanted[served].mod
                del wanted[served:]
            # Since the await: cancellation, compaction, or other answers that filled the connection.
            if watcher.state is not WatcherState.UNSYNCED:
                return _LEAST
            if sink.full or watcher.epoch != hub.epoch or not wanted:
                past.fit()
                self.add(watcher)
                return _LEAST
        if wanted:
            reached = self._send(watcher, wanted, reached)
            past.fit()
        watcher.next = reached
        if reached > index.revision:
            hub.caught_up(watcher)
        else:
            self.add(watcher)
        return len(block) + _LEAST

    def _send(self, watcher: Watcher, entries: list[Entry], reached: int) -> int:
        """Sends as many events as go into one response; returns the revision to continue from."""
        hub = self._hub
        framed: list[bytes] = []
        size = 0
        for entry in entries:
            event = event_of(entry, hub.past.get, watcher.prev_kv)
            size += len(event)
            if framed and size >= watcher.answer_bytes:
                reached = entry.mod
                break
            framed.append(event)
        hub.sent += len(framed)
        watcher.busy = True
        # As in etcd, the header has the current revision; the watcher's own position follows from its events.
        self._sink.events(watcher, hub.index.revision, EncodedEvents(framed))
        return reached


def wanted_by(watcher: Watcher, entries: Iterable[Entry]) -> list[Entry]:
    key, end = watcher.key, watcher.end
    start = watcher.next
    return [
        entry
        for entry in entries
        if entry.mod >= start
        and in_range(entry.key, key, end)
        and not (watcher.no_put if entry.version else watcher.no_delete)
    ]


def missing(watcher: Watcher, entries: Iterable[Entry], cached: Callable[[int], bytes | None]) -> list[Entry]:
    """The entries whose values the events of `entries` need and `cached` lacks."""
    found = []
    for entry in entries:
        if entry.version and cached(entry.mod) is None:
            found.append(entry)
        below = entry.below
        if watcher.prev_kv and below is not None and below.version and cached(below.mod) is None:
            found.append(below)
    return found


def event_of(entry: Entry, cached: Callable[[int], bytes | None], prev_kv: bool) -> bytes:
    """An `events` field of WatchResponse: its tag and length, then the Event."""
    body = cached(entry.mod) if entry.version else b"\x08\x01" + bare_frame(entry)
    assert body is not None
    below = entry.below
    if prev_kv and below is not None and below.version:
        prev = cached(below.mod)
        if prev is not None:
            body += b"\x1a" + prev[1:]  # a frame, as field 3 instead of 2
    return b"\x5a" + varint(len(body)) + body
