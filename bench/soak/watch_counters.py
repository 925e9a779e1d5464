"""Watch streams that count their events instead of keeping them."""

from __future__ import annotations

from array import array
from time import monotonic
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.http2 import Messages
from bench.soak.event_counts import Arrived
from bench.soak.soak_traffic import STAMP
from bench.watch_load import parse_watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.epoll_loop import Link, Loop

DELETED = 1  # mvccpb.Event.EventType
CREATE_WITHIN = 120.0  # timeout in seconds for all watches


class Counter:
    """One stream with several watches, numbered from 1 on over all streams."""

    passed = None

    def __init__(self, link: Link, arrived: Arrived, lags: array[float]) -> None:
        self.stream = 0
        self.received = 0
        self.created = 0
        self._link = link
        self._arrived = arrived
        self._lags = lags  # seconds from sending to arrival, of each put
        self._messages = Messages()

    def open(self, requests: Sequence[bytes]) -> None:
        """Creates the watches, one request each, all on this stream."""
        self._link.call(self, etcd_requests.WATCH, requests[0], last=False)
        for request in requests[1:]:
            self._link.send(self, request)

    def data(self, payload: bytes) -> None:
        now = self._link.arrived
        for message in self._messages.feed(payload):
            answer = parse_watch(message)
            if answer.created:
                self.created += 1
            if answer.canceled:
                self._wrong(f"watch cancelled: {answer.cancel_reason or 'no reason given'}")
            if answer.events:
                self._count(answer.watch_id - 1, answer.events, now)

    def _count(self, watch: int, events: Sequence[object], now: float) -> None:
        arrived, lags = self._arrived, self._lags
        newest = arrived.newest[watch]
        for event in events:
            kv = event.kv  # type: ignore[attr-defined]
            revision = kv.mod_revision
            if revision <= newest:
                self._wrong("an event came twice or out of order")
            newest = revision
            if event.type == DELETED:  # type: ignore[attr-defined]
                arrived.deletes[watch] += 1
            else:
                arrived.puts[watch] += 1
                arrived.sums[watch] += revision
                lags.append(now - float(kv.value[STAMP]))
        arrived.newest[watch] = newest

    def end(self, status: int, message: str) -> None:
        self._wrong(f"watch ended with status {status}: {message}")

    def _wrong(self, what: str) -> None:
        self._arrived.errors[what] = self._arrived.errors.get(what, 0) + 1


def open_counters(
    loop: Loop, links: Sequence[Link], requests: Sequence[bytes], arrived: Arrived, lags: array[float]
) -> list[Counter]:
    """Spreads the watches over one stream a link and waits until all are created. Raises TimeoutError."""
    counters = []
    for number, link in enumerate(links):
        if mine := requests[number :: len(links)]:
            counters.append(Counter(link, arrived, lags))
            counters[-1].open(mine)
    deadline = monotonic() + CREATE_WITHIN
    while sum(c.created for c in counters) < len(requests):
        if monotonic() > deadline or arrived.errors:
            made = sum(c.created for c in counters)
            raise TimeoutError(
                f"{made} of {len(requests)} watches were created: {arrived.errors or 'no error'}"
            )
        loop.run(monotonic() + 0.05)
    return counters
