"""Who watches what, and how each watcher gets every event once, in order, without gaps.

A watcher is *synced* when it has been sent everything applied so far: it then sits in the group of its
range and is handed each new event as it is applied. One whose client is slow, or that starts in the past,
is *unsynced*: its stream's follower (see `kine.store.follower`) reads the index's log from where the
watcher stands, at the client's pace, and it moves to its group once it has reached the present. Both steps
to and from a group happen without an await between the look and the move, so no event can fall between
them. Memory for a slow client is bounded by its stream's own queue; what it has not been sent stays in the
log.

Events are encoded once, as `WatchResponse.events` fields, and shared by all watchers of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

from kine.store.follower import Follower, Past, event_of, missing, wanted_by
from kine.store.groups import Group, Groups
from kine.store.index import Entry, Index
from kine.store.reads import Reads
from kine.store.values import Values
from kine.store.watcher import Events, Sink, State, Watcher
from kine.turns import Turns


class Hub:
    def __init__(self, index: Index, values: Values, reads: Reads, turns: Turns) -> None:
        self.index = index
        self._values = values
        self.past = Past(values, reads)
        self.learn_compaction = reads.learn_compaction
        self.turns = turns
        self._groups = Groups()
        self._followers: dict[Sink, Follower] = {}
        self.watchers = 0
        self.slow = 0
        self.sent = 0  # events, to all watchers
        self.epoch = 0  # counts how often the database has gone back
        self._lost = 0  # the highest revision that was told and is no more

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
        """Has it been sent everything up to the present, so that a progress notice would be true?"""
        return watcher.state is State.SYNCED and self.index.revision >= watcher.start

    def remove(self, watcher: Watcher) -> None:
        if watcher.state is State.CLOSED:
            return
        if watcher.state is State.SYNCED:
            self._leave(watcher)
        else:
            self._lags_no_more(watcher)
            if not watcher.sink.lagging and (follower := self._followers.pop(watcher.sink, None)):
                follower.cancel()
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
        self.epoch += 1
        self.past.clear()
        self._lost = max(self._lost, revision)
        self.overtaken(self.index.revision)

    def _join(self, watcher: Watcher) -> None:
        watcher.state = State.SYNCED
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
        revision = self.index.revision
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

    def _fall_behind(self, watcher: Watcher, *, new: bool = False) -> None:
        watcher.state = State.UNSYNCED
        self._lags(watcher)
        follower = self._followers.get(watcher.sink)
        if follower is None:
            follower = self._followers[watcher.sink] = Follower(self, watcher.sink)
        follower.add(watcher, new=new)

    def _lags(self, watcher: Watcher) -> None:
        self.slow += 1
        watcher.sink.lagging += 1

    def _lags_no_more(self, watcher: Watcher) -> None:
        self.slow -= 1
        watcher.sink.lagging -= 1

    def _cached(self, watcher: Watcher, entries: list[Entry]) -> bool:
        return not missing(watcher, wanted_by(watcher, entries), self._values.get)

    def _encode(self, watcher: Watcher, entries: list[Entry]) -> Events | None:
        """None if there is nothing for it to see, or a value is not cached."""
        wanted = wanted_by(watcher, entries)
        cached = self._values.get
        if not wanted or missing(watcher, wanted, cached):
            return None
        return Events([event_of(entry, cached, watcher.prev_kv) for entry in wanted])

    # ---- the past

    def caught_up(self, watcher: Watcher) -> None:
        """It has been sent everything up to the present."""
        self._lags_no_more(watcher)
        self._join(watcher)

    def followed(self, sink: Sink, follower: Follower) -> None:
        """None of the stream's watchers is behind any more."""
        if self._followers.get(sink) is follower:
            del self._followers[sink]

    def end_compacted(self, watcher: Watcher) -> None:
        watcher.state = State.CLOSED
        self._lags_no_more(watcher)
        self.watchers -= 1
        # Never 0: that would be no compaction to a client.
        watcher.sink.compacted(watcher, self.index.compact_revision or 1)
