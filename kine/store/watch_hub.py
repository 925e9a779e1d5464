"""The watch hub: each watcher gets every event of its range once, in order, without gaps.

A watcher is *synced* when it has been sent everything applied so far: it then sits in the group of its
range and is handed each new event as it is applied. One whose client is slow, or that starts in the past,
is *unsynced*: its stream's follower (see `kine.store.unsynced_watchers`) reads the index's log from where the
watcher stands, at the client's pace, and moves it to its group once it has reached the newest revision. Both
moves, to and from a group, happen without an await between the check and the move, so no event is lost
between them. Memory for a slow client is bounded by its stream's own queue; events not sent yet stay in the
log.

One turn of the event loop serves about `_AT_ONCE` watchers. The rest waits in the backlog, where clients
take turns, and later events queue behind it: a client in the backlog has not been sent everything that is
applied, though its watchers are in their groups. A watcher that joins meanwhile starts after those events,
as `Watcher.next` records.

Events are encoded once, as `WatchResponse.events` fields, and shared by all watchers of a group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kine.fair_queue import FairTurns
from kine.store.event_delivery_queue import EventDeliveryQueue, Shared
from kine.store.index import Entry, Index
from kine.store.range_select import RangeReader
from kine.store.unsynced_watchers import PastValues, UnsyncedWatchers, event_of, missing, wanted_by
from kine.store.value_cache import ValueCache
from kine.store.watcher import EncodedEvents, EventSink, Watcher, WatcherState
from kine.store.watcher_groups import Audience, WatcherGroup, WatcherGroups

_AT_ONCE = 500  # watchers served in one turn of the event loop
_LIKE_A_WATCHER = 64  # entries looked at that cost as much as a watcher
_BYTES_LIKE_A_WATCHER = 64 * 1024  # bytes sent that cost as much as a watcher


class WatchHub:
    def __init__(self, index: Index, values: ValueCache, reads: RangeReader, turns: FairTurns) -> None:
        self.index = index
        self._values = values
        self.past = PastValues(values, reads)
        self.learn_compaction = reads.learn_compaction
        self.turns = turns
        self._groups = WatcherGroups()
        self._backlog = EventDeliveryQueue(self._tell)
        self._telling: asyncio.Task[None] | None = None
        self._followers: dict[EventSink, UnsyncedWatchers] = {}
        self.watchers = 0
        self.slow = 0
        self.sent = 0  # events, to all watchers
        self.epoch = 0  # counts how often the database has gone back
        self._lost = 0  # the highest revision that was applied before the database went back

    # ---- watchers come and go

    def add(self, watcher: Watcher) -> None:
        """Starts a watcher at `watcher.next`; 0 means from now on."""
        self.watchers += 1
        watcher.epoch = self.epoch
        if not watcher.next:
            watcher.next = self.index.revision + 1
        if self.index.revision + 1 < watcher.next <= self._lost + 1:
            self._lags(watcher)
            self.end_compacted(watcher)
            return
        if watcher.next > self.index.revision and not watcher.sink.full:
            self._join(watcher)
        else:
            self._fall_behind(watcher, new=True)

    def in_step(self, watcher: Watcher) -> bool:
        """Whether it was sent everything up to the newest revision, so that a progress notice is true."""
        told = watcher.state is WatcherState.SYNCED and watcher.sink.client not in self._backlog
        return told and self.index.revision >= watcher.start

    def told(self, client: object, then: Callable[[], None]) -> bool:
        """Whether the client's synced watchers were sent all applied events; if not, calls `then` later."""
        if client not in self._backlog:
            return True
        self._backlog.then(client, then)
        return False

    def remove(self, watcher: Watcher) -> None:
        if watcher.state is WatcherState.CLOSED:
            return
        if watcher.state is WatcherState.SYNCED:
            self._leave(watcher)
        else:
            self._lags_no_more(watcher)
            if not watcher.sink.lagging and (follower := self._followers.pop(watcher.sink, None)):
                follower.cancel()
        watcher.state = WatcherState.CLOSED
        self.watchers -= 1

    def overtaken(self, revision: int) -> None:
        """Makes all synced watchers continue after `revision` as unsynced: later events were not published.

        A watcher whose next event is compacted ends.
        """
        self._backlog.tell_all()
        for watcher in self._groups.watchers():
            watcher.next = max(watcher.next, revision + 1)
            self._leave(watcher)
            self._fall_behind(watcher)

    def rewound(self, revision: int) -> None:
        """Ends all watchers: the database went back from `revision`, and they may have sent lost events."""
        self.epoch += 1
        self.past.clear()
        self._lost = max(self._lost, revision)
        self.overtaken(self.index.revision)

    def _join(self, watcher: Watcher) -> None:
        watcher.state = WatcherState.SYNCED
        self._groups.join(watcher)

    def _leave(self, watcher: Watcher) -> None:
        self._groups.leave(watcher)

    # ---- the present

    def publish(self, entries: Sequence[Entry]) -> None:
        """Hands new events to the synced watchers. Called as they are applied, before anything else."""
        if self.watchers == self.slow:
            return
        left = _AT_ONCE
        touched: list[WatcherGroup] = []
        holding = self._groups.holding
        for entry in entries:
            for group in holding(entry.key):
                if not group.fresh:
                    touched.append(group)
                group.fresh.append(entry)
        for group in touched:
            fresh, group.fresh = group.fresh, []
            shared: Shared = {}
            for audience in tuple(group.audiences.values()):
                left -= self._tell_or_keep(audience, fresh, shared, left)
        every = list(entries)
        for audience in tuple(self._groups.others.values()):
            left -= self._tell_or_keep(audience, every, None, left)
        if self._backlog and self._telling is None:
            self._telling = asyncio.ensure_future(self._tell_backlog())

    def _tell_or_keep(
        self, audience: Audience, entries: list[Entry], shared: Shared | None, most: int
    ) -> int:
        """Serves the audience now if that costs `most` at most and its client has no backlog; else queues it.

        Returns the cost.
        """
        least = len(audience.watchers) * (1 + len(entries) // _LIKE_A_WATCHER)
        if least > most or audience.client in self._backlog:
            self._backlog.add(audience, entries)
            return 0
        return sum([self._tell(watcher, entries, shared) for watcher in tuple(audience.watchers)])

    async def _tell_backlog(self) -> None:
        try:
            while self._backlog:
                await self.turns.next(self)
                self._backlog.go_on(_AT_ONCE)
        finally:
            self._telling = None

    def _tell(self, watcher: Watcher, entries: list[Entry], shared: Shared | None) -> int:
        """Sends the watcher its events among `entries`, or leaves that to its follower; returns the cost.

        `shared` has the events already encoded for other watchers of the same range, in which all the entries
        are. It is None if the watchers' ranges differ.
        """
        cost = 1 + len(entries) // _LIKE_A_WATCHER
        if watcher.state is not WatcherState.SYNCED:  # closed, or behind since earlier events
            return cost
        if watcher.sink.full:
            self._overtake(watcher, entries)
            return cost
        if shared is None or watcher.next > entries[0].mod:
            # It has a range of its own, or starts at a revision among these entries.
            events = self._encode(watcher, entries)
        elif watcher.shape in shared:
            events = shared[watcher.shape]
        else:
            events = shared[watcher.shape] = self._encode(watcher, entries)
        if events is None:
            if not self._cached(watcher, entries):
                self._overtake(watcher, entries)
            return cost
        self.sent += len(events.framed)
        watcher.busy = True
        watcher.sink.events(watcher, self.index.revision, events)
        return cost + len(events.joined) // _BYTES_LIKE_A_WATCHER

    def _overtake(self, watcher: Watcher, entries: list[Entry]) -> None:
        """Makes the watcher unsynced: its stream's follower continues from the first event it lacks."""
        watcher.next = max(watcher.next, entries[0].mod)
        self._leave(watcher)
        self._fall_behind(watcher)

    def _fall_behind(self, watcher: Watcher, *, new: bool = False) -> None:
        watcher.state = WatcherState.UNSYNCED
        self._lags(watcher)
        follower = self._followers.get(watcher.sink)
        if follower is None:
            follower = self._followers[watcher.sink] = UnsyncedWatchers(self, watcher.sink)
        follower.add(watcher, new=new)

    def _lags(self, watcher: Watcher) -> None:
        self.slow += 1
        watcher.sink.lagging += 1

    def _lags_no_more(self, watcher: Watcher) -> None:
        self.slow -= 1
        watcher.sink.lagging -= 1

    def _cached(self, watcher: Watcher, entries: list[Entry]) -> bool:
        return not missing(watcher, wanted_by(watcher, entries), self._values.get)

    def _encode(self, watcher: Watcher, entries: list[Entry]) -> EncodedEvents | None:
        """Encodes the watcher's events; None if it has none among `entries`, or a value is not cached."""
        wanted = wanted_by(watcher, entries)
        cached = self._values.get
        if not wanted or missing(watcher, wanted, cached):
            return None
        return EncodedEvents([event_of(entry, cached, watcher.prev_kv) for entry in wanted])

    # ---- the past

    def caught_up(self, watcher: Watcher) -> None:
        """Makes a watcher synced once it has been sent everything up to the newest revision."""
        self._lags_no_more(watcher)
        self._join(watcher)

    def followed(self, sink: EventSink, follower: UnsyncedWatchers) -> None:
        """Forgets a stream's follower, which has ended."""
        if self._followers.get(sink) is follower:
            del self._followers[sink]

    def end_compacted(self, watcher: Watcher) -> None:
        watcher.state = WatcherState.CLOSED
        self._lags_no_more(watcher)
        self.watchers -= 1
        # Never 0, which clients take for no compaction.
        watcher.sink.compacted(watcher, self.index.compact_revision or 1)
