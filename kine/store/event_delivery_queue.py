"""Queue of events to deliver to watchers, when they are too many for one turn of the event loop."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from kine.store.index import Entry
from kine.store.watcher import EncodedEvents, Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kine.store.watcher_groups import Audience

log = logging.getLogger(__name__)

Shared = dict[
    tuple[bool, bool, bool], EncodedEvents | None
]  # encoded events for watchers of one range, by watcher shape; None: nothing to send
Tell = Callable[[Watcher, list[Entry], Shared | None], int]  # returns the cost; no Shared: the ranges differ
_SHARE = 50  # watchers of one client that are served before those of the next


class _Line:
    """One client's pending audiences, each with the entries it has not been sent.

    Invariant: an audience is queued at most once, not counting the one being served, which gets the entries
    that were queued when its turn came. A watcher is in one audience, so it gets each event once, in order.
    """

    __slots__ = ("_lacking", "_tell", "_telling", "then")

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lacking: dict[Audience, list[Entry]] = {}
        self._telling: Iterator[int] | None = None
        self.then: list[Callable[[], None]] = []  # callbacks for when everything is delivered

    def add(self, audience: Audience, entries: list[Entry]) -> None:
        lacking = self._lacking.get(audience)
        if lacking is None:
            self._lacking[audience] = list(entries)
        else:
            lacking += entries

    def go_on(self, most: int) -> tuple[int, bool]:
        """Delivers at a cost of about `most`; returns the actual cost, and whether nothing is left."""
        done = 0
        if self._telling is None:
            self._telling = self._all()
        try:
            while done < most:
                done += next(self._telling)
        except StopIteration:
            self._telling = None
            return done, True
        return done, False

    def _all(self) -> Iterator[int]:
        while self._lacking:
            audience = next(iter(self._lacking))
            entries = self._lacking.pop(audience)
            shared: Shared | None = None if audience.group is None else {}
            yield 1
            for watcher in tuple(audience.watchers):
                try:
                    yield self._tell(watcher, entries, shared)
                except Exception:
                    log.exception("a stream's watchers could not be told")
                    watcher.sink.failed()


class EventDeliveryQueue:
    """The pending deliveries of all clients, which take turns."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lines: OrderedDict[object, _Line] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, client: object) -> bool:
        return client in self._lines

    def add(self, audience: Audience, entries: list[Entry]) -> None:
        line = self._lines.get(audience.client)
        if line is None:
            line = self._lines[audience.client] = _Line(self._tell)
        line.add(audience, entries)

    def then(self, client: object, call: Callable[[], None]) -> None:
        """Calls `call` when everything is delivered to this client, which must have deliveries pending."""
        self._lines[client].then.append(call)

    def go_on(self, most: int) -> None:
        """Delivers at a cost of about `most`, to clients in rotation."""
        while self._lines and most > 0:
            client, line = next(iter(self._lines.items()))
            done, ended = line.go_on(min(most, _SHARE))
            most -= done
            if not ended:
                self._lines.move_to_end(client)
                continue
            del self._lines[client]
            for call in line.then:
                call()

    def tell_all(self) -> None:
        while self._lines:
            self.go_on(1_000_000)
