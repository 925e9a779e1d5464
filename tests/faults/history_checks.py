"""Invariants of a run: all responses and watches are checked against the single order of events."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.event_history import History, operations
from tests.faults.lease_traffic import too_early
from tests.faults.traffic import WRITES, Call, Outcome
from tests.linearizability import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.lease_traffic import Holder
    from tests.faults.watch_traffic import Event, Watcher

_READS = {"get", "list", "page"}  # that must be linearizable
_PRESENT = {*_READS, "stale"}  # of the current state, or an instance's view of it


def violations(
    calls: Sequence[Call], watchers: Sequence[Watcher], holders: Sequence[Holder] = ()
) -> Iterator[str]:
    history = History()
    for watcher in watchers:
        history.add(watcher)
    history.settle()
    yield from history.disagreements
    for watcher in watchers:
        yield from _watch(watcher, history)
    yield from _events(history, calls)
    yield from _answers(calls, history)
    yield from _real_time(calls)
    yield from _atomic(calls, watchers, history)
    yield from too_early(holders, history)
    found = check(operations(calls, history))
    if found is not None:
        yield str(found)


def _watch(watcher: Watcher, history: History) -> Iterator[str]:
    """etcd's watch guarantees, ordered, unique, reliable, resumable, bookmarkable, in and across segments."""
    revisions = sorted({revision for revision, _ in history.events})
    name = f"the watch of instance {watcher.number}"
    for segment in watcher.segments:
        last = segment.start - 1
        got = set()
        for kind, header, events in segment.answers:
            for event in events:
                if event.revision <= last:
                    yield f"{name} from {segment.start}: {event.revision} after {last}"
                last = max(last, event.revision)
                got.add(event.revision)
            # All events up to a progress notice must have come before it, and later ones must lie beyond it.
            if kind == "progress":
                last = max(last, header)
        due = {revision for revision in revisions if segment.start <= revision <= last}
        if missed := sorted(due - got):
            yield f"{name} from {segment.start} to {last} missed {missed[:5]} ({len(missed)})"


def _events(history: History, calls: Sequence[Call]) -> Iterator[str]:
    """Each write occurs once, from a client that may have written it; versions and old values match."""
    may = {b"first"} | {value for call in calls for value in call.values}
    refused = {value for call in calls if call.outcome is Outcome.REFUSED for value in call.values}
    counted = Counter(event.item.value for event in history.events.values() if not event.deleted)
    for value, count in counted.items():
        if value not in may:
            yield f"nobody wrote {value!r}"
        if count > 1:
            yield f"{value!r} was written {count} times"
        if value in refused:
            yield f"{value!r} landed, and its writer was told that it did not"
    for events in history.by_key.values():
        before: Event | None = None
        for event in events:
            yield from _follows(before, event)
            before = event


def _follows(before: Event | None, event: Event) -> Iterator[str]:
    lives = before is not None and not before.deleted
    if event.deleted:
        if not lives:
            yield f"{event} deletes what is not there"
    else:
        version = before.item.version + 1 if before is not None and lives else 1
        create = before.item.create if before is not None and lives else event.revision
        if (event.item.version, event.item.create) != (version, create):
            yield f"{event} should have version {version}, created at {create}"
    if before is not None and event.prev is not None and event.prev != before.item:
        yield f"{event} tells another value before it than {before.item}"


def _answers(calls: Sequence[Call], history: History) -> Iterator[str]:
    for call in calls:
        if call.outcome is not Outcome.DONE:
            continue
        if call.kind in WRITES and call.succeeded:
            yield from _landed(call, history)
        elif call.keys:
            if call.found != tuple(filter(None, [history.at(call.keys[0], call.revision)])):
                yield f"not the state at {call.revision}: {call}"
            if call.kind in WRITES and call.found and call.found[0].mod == call.expected:
                yield f"the compare held, and was said not to: {call}"
        else:
            due = history.state(call.asked or call.revision)
            if list(call.found) != (due[: call.limit] if call.limit else due):
                yield f"not the state at {call.asked or call.revision}: {call}"


def _landed(call: Call, history: History) -> Iterator[str]:
    if call.kind == "delete":
        event = history.events.get((call.revision, call.keys[0]))
        if event is None or not event.deleted:
            yield f"acknowledged and lost: {call}"
    for key, value in zip(call.keys, call.values, strict=False):
        item = history.at(key, call.revision)
        if item is None or item.value != value:
            yield f"acknowledged and lost: {call}"
    if call.kind in ("create", "update", "delete"):
        before = history.at(call.keys[0], call.revision - 1)
        if (before.mod if before else 0) != call.expected:
            yield f"the compare did not hold, and was said to: {call}"


def _real_time(calls: Sequence[Call]) -> Iterator[str]:
    """A call reflects, and has a later revision than, everything that was acknowledged before it was sent."""
    done = [call for call in calls if call.outcome is Outcome.DONE]
    ends = sorted(done, key=lambda call: call.returned)
    floor, place = 0, 0
    for call in sorted(done, key=lambda call: call.called):
        while place < len(ends) and ends[place].returned < call.called:
            floor = max(floor, ends[place].revision)
            place += 1
        wrote = call.kind in WRITES and call.succeeded
        if (wrote and call.revision <= floor) or (call.kind in _READS and call.revision < floor):
            yield f"at {call.revision}, though {floor} had been told before it was sent: {call}"


def _atomic(calls: Sequence[Call], watchers: Sequence[Watcher], history: History) -> Iterator[str]:
    """A transaction of two keys lands whole, with nothing in between, and no current read sees half of it.

    Its rows have a revision each: only a read at the first of them by number sees the state in between.
    """
    landed = {event.item.value: event.revision for event in history.events.values() if not event.deleted}
    revisions = {revision for revision, _ in history.events}
    half: dict[int, Call] = {}
    for call in calls:
        if call.kind != "pair":
            continue
        its = sorted(landed[value] for value in call.values if value in landed)
        if len(its) == 1:
            yield f"half of it landed: {call}"
        elif its:
            between = range(its[0] + 1, its[1])
            if not revisions.isdisjoint(between):
                yield f"something came between its two writes, {its}: {call}"
            half |= dict.fromkeys(range(its[0], its[1]), call)
    for call in calls:
        if call.outcome is Outcome.DONE and call.kind in _PRESENT and call.revision in half:
            yield f"at {call.revision} half of a transaction was seen, {half[call.revision]}: {call}"
    for watcher in watchers:
        for segment in watcher.segments:
            for kind, header, _ in segment.answers:
                if kind == "progress" and header in half:
                    yield f"the watch of instance {watcher.number} promised half of {half[header]}"
