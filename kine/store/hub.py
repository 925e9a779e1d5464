"""Who watches what, and how each watcher gets every event once, in order, without gaps.

A watcher is *synced* when it has been sent everything applied so far: it then sits in the group of its
range and is handed each new event as it is applied. One whose client is slow, or that starts in the past,
is *unsynced*: a task of its own reads the index's log from where the watcher stands, at the client's
pace, and moves it to its group once it has reached the present. Both steps to and from a group happen
without an await between the look and the move, so no event can fall between them. Memory for a slow
client is bounded by its stream's own queue; what it has not been sent stays in the log.

Events are encoded once, as `WatchResponse.events` fields, and shared by all watchers of a group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from kine.drivers.base import DriverError
from kine.store.groups import Group, Groups
from kine.store.index import Entry, Index, in_range
from kine.store.reads import GoneError, Reads
from kine.store.values import Values, bare_frame, varint
from kine.store.watcher import Events, State, Watcher

log = logging.getLogger(__name__)

_SCAN = 2_000  # entries of the log looked at before the loop is let go
_SEND = 500  # events in one response to an unsynced watcher
_SEND_BYTES = 1024 * 1024
_RETRY = 0.5  # seconds, when values cannot be read


class Hub:
    def __init__(self, index: Index, values: Values, reads: Reads) -> None:
        self._index = index
        self._values = values
        self._reads = reads
        self._groups = Groups()
        self.watchers = 0
        self.slow = 0
        self.sent = 0  # events, to all watchers
        self._epoch = 0  # counts how often the database has gone back
        self._lost = 0  # the highest revision that was told and is no more

    # ---- watchers come and go

    def add(self, watcher: Watcher) -> None:
        """Starts a watcher at `watcher.next`; 0 means from now on."""
        self.watchers += 1
        watcher.epoch = self._epoch
        if not watcher.next:
            watcher.next = self._index.revision + 1
        if self._index.revision + 1 < watcher.next <= self._lost + 1:
            self.slow += 1
            self._end_compacted(watcher)
            return
        if watcher.next > self._index.revision and not watcher.sink.full:
            self._join(watcher)
        else:
            self._fall_behind(watcher)

    def in_step(self, watcher: Watcher) -> bool:
        """Has it been sent everything up to the present, so that a progress notice would be true?"""
        return watcher.state is State.SYNCED and self._index.revision >= watcher.start

    def remove(self, watcher: Watcher) -> None:
        if watcher.state is State.CLOSED:
            return
        if watcher.state is State.SYNCED:
            self._leave(watcher)
        else:
            self.slow -= 1
            if watcher.task is not None:
                watcher.task.cancel()
        watcher.state = State.CLOSED
        self.watchers -= 1

    def overtaken(self, revision: int) -> None:
        """What came after `revision` was not published: each goes on there, or learns it is compacted."""
        for group in self._groups.all():
            for watcher in tuple(group.watchers):
                watcher.next = max(watcher.next, revision + 1)
                self._leave(watcher)
                self._fall_behind(watcher)

    def rewound(self, revision: int) -> None:
        """The database has gone back from `revision`: each watcher may have told what is no more."""
        self._epoch += 1
        self._lost = max(self._lost, revision)
        self.overtaken(self._index.revision)

    def _join(self, watcher: Watcher) -> None:
        watcher.state = State.SYNCED
        watcher.task = None
        self._groups.get(watcher.key, watcher.end).watchers.add(watcher)

    def _leave(self, watcher: Watcher) -> None:
        group = self._groups.get(watcher.key, watcher.end)
        group.watchers.discard(watcher)
        if not group.watchers:
            self._groups.drop(group)

    # ---- the present

    def publish(self, entries: Sequence[Entry]) -> None:
        """Hands new events to the synced watchers. Called as they are applied, before anything else."""
        if self.watchers == self.slow:
            return
        touched: list[Group] = []
        holding = self._groups.holding
        for entry in entries:
            for group in holding(entry.key):
                if not group.fresh:
                    touched.append(group)
                group.fresh.append(entry)
        for group in touched:
            fresh, group.fresh = group.fresh, []
            self._publish_to(group, fresh)

    def _publish_to(self, group: Group, entries: list[Entry]) -> None:
        revision = self._index.revision
        shared: dict[tuple[bool, bool, bool], Events | None] = {}
        for watcher in tuple(group.watchers):
            if watcher.sink.full:
                # The first event it lacks is where its own task takes over.
                watcher.next = max(watcher.next, entries[0].mod)
                self._leave(watcher)
                self._fall_behind(watcher)
                continue
            if watcher.next > entries[0].mod:  # it asked for a revision that is only now being reached
                its = [entry for entry in entries if entry.mod >= watcher.next]
                events = self._encode(watcher, its)
            elif watcher.shape in shared:
                events = shared[watcher.shape]
            else:
                events = shared[watcher.shape] = self._encode(watcher, entries)
            if events is None:
                if not self._cached(watcher, entries):
                    watcher.next = max(watcher.next, entries[0].mod)
                    self._leave(watcher)
                    self._fall_behind(watcher)
                continue
            self.sent += len(events.framed)
            watcher.busy = True
            watcher.sink.events(watcher, revision, events)

    def _fall_behind(self, watcher: Watcher) -> None:
        watcher.state = State.UNSYNCED
        self.slow += 1
        watcher.task = asyncio.ensure_future(self._follow(watcher))

    def _cached(self, watcher: Watcher, entries: list[Entry]) -> bool:
        return not self._missing(watcher, _wanted(watcher, entries))

    def _encode(self, watcher: Watcher, entries: list[Entry]) -> Events | None:
        """None if there is nothing for it to see, or a value is not cached."""
        wanted = _wanted(watcher, entries)
        if not wanted or self._missing(watcher, wanted):
            return None
        cached = self._values.get
        return Events([_event(entry, cached, watcher.prev_kv) for entry in wanted])

    def _missing(self, watcher: Watcher, entries: Iterable[Entry]) -> list[Entry]:
        missing = []
        cached = self._values.get
        for entry in entries:
            if entry.version and cached(entry.mod) is None:
                missing.append(entry)
            below = entry.below
            if watcher.prev_kv and below is not None and below.version and cached(below.mod) is None:
                missing.append(below)
        return missing

    # ---- the past

    async def _follow(self, watcher: Watcher) -> None:
        try:
            await self._catch_up(watcher)
        except Exception:
            log.exception("a watcher could not be served")
            watcher.sink.failed()

    async def _catch_up(self, watcher: Watcher) -> None:
        index = self._index
        while True:
            if watcher.sink.full:
                await watcher.sink.drain()
            if watcher.next < index.compact_revision or watcher.epoch != self._epoch:
                self._end_compacted(watcher)
                return
            if watcher.next > index.revision:
                self.slow -= 1
                self._join(watcher)
                return
            position = index.since(watcher.next)
            block = index.log[position : position + _SCAN]
            reached = block[-1].mod + 1 if position + _SCAN < len(index.log) else index.revision + 1
            wanted = _wanted(watcher, block)
            if len(wanted) > _SEND:
                del wanted[_SEND:]
                reached = wanted[-1].mod + 1
            if wanted:
                sent = await self._send_past(watcher, wanted, reached)
                if sent is None:
                    continue
                reached = sent
            watcher.next = reached
            await asyncio.sleep(0)

    async def _send_past(self, watcher: Watcher, entries: list[Entry], reached: int) -> int | None:
        """Sends as many as go into one response; the revision to go on from, or None to look again."""
        cached: Callable[[int], bytes | None] = self._values.get
        missing = self._missing(watcher, entries)
        if missing:
            try:
                fetched = await self._reads.fetch(missing)
            except GoneError:
                # Compacted, most likely by another instance which this one has yet to hear of.
                await asyncio.sleep(_RETRY)
                return None
            except DriverError as error:
                log.debug("a watcher waits for the database: %s", error)
                await asyncio.sleep(_RETRY)
                return None

            def cached(revision: int) -> bytes | None:
                return fetched.get(revision) or self._values.get(revision)

            if self._missing_still(watcher, entries, cached):
                return None
        framed: list[bytes] = []
        size = 0
        for entry in entries:
            event = _event(entry, cached, watcher.prev_kv)
            framed.append(event)
            size += len(event)
            if size > _SEND_BYTES and entry is not entries[-1]:
                reached = entry.mod + 1
                break
        self.sent += len(framed)
        watcher.busy = True
        # Up to here and no further has this watcher seen: a header of the present would promise more.
        watcher.sink.events(watcher, min(reached - 1, self._index.revision), Events(framed))
        return reached

    @staticmethod
    def _missing_still(watcher: Watcher, entries: list[Entry], cached: Callable[[int], bytes | None]) -> bool:
        for entry in entries:
            below = entry.below if watcher.prev_kv else None
            if entry.version and cached(entry.mod) is None:
                return True
            if below is not None and below.version and cached(below.mod) is None:
                return True
        return False

    def _end_compacted(self, watcher: Watcher) -> None:
        watcher.state = State.CLOSED
        self.slow -= 1
        self.watchers -= 1
        # Never 0: that would be no compaction to a client.
        watcher.sink.compacted(watcher, self._index.compact_revision or 1)


def _wanted(watcher: Watcher, entries: Iterable[Entry]) -> list[Entry]:
    key, end = watcher.key, watcher.end
    start = watcher.next
    return [
        entry
        for entry in entries
        if entry.mod >= start
        and in_range(entry.key, key, end)
        and not (watcher.no_put if entry.version else watcher.no_delete)
    ]


def _event(entry: Entry, cached: Callable[[int], bytes | None], prev_kv: bool) -> bytes:
    """An `events` field of WatchResponse: its tag and length, then the Event."""
    body = cached(entry.mod) if entry.version else b"\x08\x01" + bare_frame(entry)
    assert body is not None
    below = entry.below
    if prev_kv and below is not None and below.version:
        prev = cached(below.mod)
        if prev is not None:
            body += b"\x1a" + prev[1:]  # a frame, as field 3 instead of 2
    return b"\x5a" + varint(len(body)) + body
