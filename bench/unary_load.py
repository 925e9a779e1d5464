"""Unary load from one process: slots that each keep one request in flight, in a closed or open loop.

Closed loop: a slot sends its next request when it has the answer to the last; its latency starts when the
request is written to the socket. Open loop: requests are due at a fixed rate independent of the server, and
latency starts when the request was due. So a stall shows in all the requests that it delayed (no coordinated
omission; G. Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

from bench.etcd_requests import WATCH
from bench.http2 import DEADLINE_EXCEEDED, UNKNOWN, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.epoll_loop import Link, Loop

TAIL = 16  # bytes at the end of an answer that are checked when it is not parsed
DRAIN = 10.0  # seconds for requests in flight after the end of a run


class Operation:
    """Generator of the requests and checker of the answers. One object serves all slots of a process."""

    kinds: Sequence[str] = ()
    """Names of the requests told apart in the results."""
    read_every = 1
    """Of so many answers of the first kind one is read whole; of the others `skim` sees size and end."""

    def begin(self, slot: Slot) -> None:
        """Initializes `slot.state`."""

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        """The slot's next request, as path and message; sets `slot.kind`. None: it has no more."""
        raise NotImplementedError

    def check(self, slot: Slot, body: bytes) -> str:
        """The error in the answer; empty if there is none."""
        raise NotImplementedError

    def skim(self, slot: Slot, tail: bytes, size: int) -> str:
        """The error in an answer of `size` bytes that ends in `tail`; empty if there is none."""
        raise NotImplementedError

    def failed(self, slot: Slot) -> None:
        """Called when the request ended without an answer: the outcome of a write is unknown."""


class Slot:
    """A client with at most one request in flight."""

    # fmt: off
    __slots__ = ("busy", "call", "chunks", "kind", "link", "load", "number", "passed", "received", "size",
                 "start", "state", "stream", "tail", "turn")
    # fmt: on

    def __init__(self, load: Any, link: Any, number: int) -> None:
        self.load: Load = load
        self.link: Link = link
        self.number = number
        self.stream = 0
        self.received = 0
        self.start = 0.0
        self.kind = 0
        self.busy = False
        self.call: Receiver = self  # receives the stream of the request in flight
        self.chunks: list[bytes] = []
        self.state: Any = None
        self.turn = 0
        self.passed: Callable[[bytes | memoryview, int, int], None] | None = None
        self.size = 0  # bytes of an answer that is not parsed
        self.tail = b""

    def data(self, payload: bytes) -> None:
        self.chunks.append(payload)

    def skim(self, data: bytes | memoryview, start: int, stop: int) -> None:
        if self.size < 5:
            self.chunks.append(bytes(data[start : min(stop, start + 5 - self.size)]))
        self.size += stop - start
        self.tail = bytes(data[max(start, stop - TAIL) : stop])

    def _skimmed(self) -> str:
        size, self.size = self.size - 5, 0
        prefix = b"".join(self.chunks)
        self.chunks.clear()
        if len(prefix) < 5 or prefix[0] or int.from_bytes(prefix[1:5], "big") != size:
            return "wrong answer: not one whole message"
        return self.load.operation.skim(self, self.tail, size)

    def end(self, status: int, message: str) -> None:
        load = self.load
        arrived = self.link.arrived
        self.busy = False
        if status == 0 and self.passed is not None:
            error = self._skimmed()
        elif status == 0:
            chunks = self.chunks
            if len(chunks) > 1 and len(chunks[0]) < 5:
                chunks[:] = [b"".join(chunks)]
            prefix = chunks[0] if chunks else b""
            if len(chunks) == 1:
                body = prefix[5:]
            else:  # split before joining: a list's answer is megabytes
                chunks[:1] = [prefix[5:]]
                body = b"".join(chunks)
            chunks.clear()
            if len(prefix) < 5 or prefix[0] or int.from_bytes(prefix[1:5], "big") != len(body):
                error = "wrong answer: not one whole message"
            else:
                error = load.operation.check(self, body)
        else:
            self.chunks.clear()
            self.size = 0
            error = f"status {status}: {message}"
            load.operation.failed(self)
        load.answers += 1
        if load.begin <= self.start < load.finish:
            if error:
                load.errors[error[:160]] += 1
            else:
                load.samples[self.kind].append(arrived - self.start)
                if arrived < load.finish:
                    load.completed += 1
        elif error:
            load.outside[error[:160]] += 1
        load.released(self, arrived)


class WatchOpening:
    """A slot's request that opens a watch and closes it once the server has created it."""

    passed = None

    def __init__(self, slot: Slot) -> None:
        self.stream = 0
        self.received = 0
        self._slot = slot

    def data(self, payload: bytes) -> None:
        slot = self._slot
        slot.chunks.append(payload)
        slot.link.cancel(self)
        slot.end(0, "")

    def end(self, status: int, message: str) -> None:
        self._slot.end(status or UNKNOWN, message or "the watch ended before it was created")


class Load:
    """One run of an operation over some links.

    `rate` is in requests per second for this process; 0: closed loop. `limit` is the timeout of one request
    in seconds; then it is cancelled and counted as an error.
    """

    def __init__(
        self,
        loop: Loop,
        links: Sequence[Link],
        operation: Operation,
        slots: int,
        *,
        rate: float = 0.0,
        limit: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.loop = loop
        self.operation = operation
        self.rate = rate
        self.limit = limit
        self.begin = 0.0
        self.finish = 0.0
        self.completed = 0  # right answers within the measured time
        self.answers = 0  # all answers and failures
        self.ran_out = False  # no requests were left before the end of the time
        self.last_end = 0.0  # time of the last answer
        self.samples = [array("d") for _ in operation.kinds]
        self.errors: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()  # errors before and after the measured time
        self.slots = [Slot(self, links[i % len(links)], i) for i in range(slots)]
        self._random = Random(seed)
        self._outstanding = 0
        self._next_due = inf
        self._backlog: deque[float] = deque()
        self._free: list[Slot] = []
        for slot in self.slots:
            operation.begin(slot)

    def run(self, start: float, warmup: float, duration: float) -> None:
        """Measures for `duration` seconds from `start + warmup` on, with load from `start` on."""
        self.begin = start + warmup
        self.finish = self.begin + duration
        self.loop.on_tick = self._expire
        self.loop.run(start)  # nothing is due before; this answers pings
        give_up = self.finish + DRAIN
        if self.rate:
            self._next_due = start + self._random.random() / self.rate
            self._free = list(self.slots)
            self.loop.run(give_up, self._due)
        else:
            for slot in self.slots:
                self._issue(slot, 0.0)
            if self._outstanding:
                self.loop.run(give_up)
        self.loop.on_tick = None
        self._abandon()

    @property
    def unstarted(self) -> int:
        """The number of requests that were due but for which no slot became free in time."""
        return len(self._backlog)

    def released(self, slot: Slot, now: float) -> None:
        """Gives the next request to a slot that has its answer."""
        self._outstanding -= 1
        self.last_end = now
        if self.rate:
            if self._backlog:
                self._issue(slot, self._backlog.popleft())
            else:
                self._free.append(slot)
                if now >= self.finish and self._outstanding == 0:
                    self.loop.stop()
        elif now < self.finish:
            self._issue(slot, 0.0)
        if self._outstanding == 0 and not self.rate:
            self.loop.stop()

    def _issue(self, slot: Slot, due: float) -> None:
        request = self.operation.next(slot)
        if request is None:
            self.ran_out = True
            return
        path, message = request
        if self.operation.read_every > 1:
            skimmed = slot.kind == 0 and slot.turn % self.operation.read_every
            slot.passed = slot.skim if skimmed else None
            slot.turn += slot.kind == 0
        slot.busy = True
        self._outstanding += 1
        link = slot.link
        if due:
            slot.start = due
        else:
            slot.start = link.arrived or monotonic()
            link.starting.append(slot)
        if path == WATCH:
            slot.call = WatchOpening(slot)
            link.call(slot.call, path, message, last=False)
        else:
            slot.call = slot
            link.call(slot, path, message)

    def _due(self, now: float) -> float:
        step = 1.0 / self.rate
        backlog = self._backlog
        while self._next_due <= now:
            if self._next_due >= self.finish:
                self._next_due = inf
                break
            backlog.append(self._next_due)
            self._next_due += step
        while backlog and self._free:
            self._issue(self._free.pop(), backlog.popleft())
        if self._next_due == inf and self._outstanding == 0 and not backlog:
            self.loop.stop()
        return self._next_due

    def _expire(self, now: float) -> None:
        oldest = now - self.limit
        for slot in self.slots:
            if slot.busy and slot.start < oldest:
                self._time_out(slot, now)

    def _time_out(self, slot: Slot, now: float) -> None:
        slot.link.cancel(slot.call)
        slot.link.arrived = now
        slot.end(DEADLINE_EXCEEDED, f"no answer within {self.limit:g} s")

    def _abandon(self) -> None:
        """Ends the requests in flight after the drain: each counts as an error of the measured time."""
        self.finish = min(self.finish, monotonic())
        for slot in self.slots:
            if slot.busy:
                slot.busy = False
                slot.link.cancel(slot.call)
                self.errors[f"no answer within {DRAIN:g} s of the end"] += 1
        self.loop.flush()
