"""The single order of events, merged from all watchers, and the state after each event."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.faults.traffic import Outcome, Seen
from tests.linearizability import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.traffic import Call
    from tests.faults.watch_traffic import Event, Watcher


@dataclass
class History:
    """Events by revision and key: each once, however many watchers saw it."""

    events: dict[tuple[int, bytes], Event] = field(default_factory=dict)
    seen_at: dict[int, int] = field(default_factory=dict)  # by revision, when the first watcher had it
    by_key: dict[bytes, list[Event]] = field(default_factory=lambda: defaultdict(list))
    disagreements: list[str] = field(default_factory=list)

    def add(self, watcher: Watcher) -> None:
        for segment in watcher.segments:
            for _, _, events in segment.answers:
                for event in events:
                    place = event.revision, event.item.key
                    known = self.events.setdefault(place, event)
                    if known[:3] != event[:3]:
                        self.disagreements.append(f"one revision, two events: {known} and {event}")
        for revision, when in watcher.first_seen.items():
            self.seen_at[revision] = min(when, self.seen_at.get(revision, when))

    def settle(self) -> None:
        for _, event in sorted(self.events.items()):
            self.by_key[event.item.key].append(event)

    def at(self, key: bytes, revision: int) -> Seen | None:
        events = self.by_key.get(key, [])
        place = bisect_right(events, revision, key=lambda event: event.revision)
        return events[place - 1].item if place and not events[place - 1].deleted else None

    def state(self, revision: int) -> list[Seen]:
        return [item for key in sorted(self.by_key) if (item := self.at(key, revision)) is not None]


def operations(calls: Iterable[Call], history: History) -> list[Operation]:
    """The input of the linearizability checker: one key each, values instead of revisions.

    The outcome of a write without a response is taken from the events: it landed, at the latest when it was
    first seen, or it never did.
    """
    landed = {event.item.value: event for event in history.events.values() if not event.deleted}
    value_at = {event.revision: event.item.value for event in history.events.values() if not event.deleted}
    claimed = {(call.keys[0], call.expected) for call in calls
               if call.kind == "delete" and call.outcome is Outcome.DONE and call.succeeded}  # fmt: skip
    made: list[Operation] = []
    for call in calls:
        key = call.keys[0] if call.keys else b""
        found = call.found[0].value if call.found else None
        done = call.outcome is Outcome.DONE
        span = call.client, key
        if call.kind == "get" and done:
            made.append(Operation(*span, "get", call.called, call.returned, seen=found))
        elif call.kind == "delete":
            expected = value_at.get(call.expected)
            if done and call.succeeded:
                made.append(Operation(*span, "delete", call.called, call.returned, seen=expected))
            elif done:
                made.append(Operation(*span, "get", call.called, call.returned, seen=found))
            elif (
                call.outcome is Outcome.UNKNOWN
                and (key, call.expected) not in claimed
                and (gone := _deletion(history, key, call.expected))
            ):
                claimed.add((key, call.expected))
                when = history.seen_at[gone.revision]
                made.append(Operation(*span, "delete", call.called, max(when, call.called), seen=expected))
        elif call.values and done and not call.succeeded:
            made.append(Operation(*span, "get", call.called, call.returned, seen=found))
        elif call.values:
            for one, value in zip(call.keys, call.values, strict=True):
                event = landed.get(value)
                if not done and event is None:
                    continue
                end = call.returned if done else max(call.called, history.seen_at[event.revision])  # type: ignore[union-attr]
                if call.kind in ("create", "update"):
                    before = value_at.get(call.expected) if call.expected else None
                    made.append(Operation(call.client, one, "cas", call.called, end, value, before))
                else:
                    made.append(Operation(call.client, one, "put", call.called, end, value))
    return made


def _deletion(history: History, key: bytes, expected: int) -> Event | None:
    """The event that deleted the version of the key that a revision had written."""
    events = history.by_key.get(key, [])
    for before, after in pairwise(events):
        if before.revision == expected:
            return after if after.deleted else None
    return None
