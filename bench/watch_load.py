"""Watch streams that follow writes, and writers that note when each write was sent and acknowledged.

An event is matched to its write by revision, which the write's answer contains. All times are of the
machine's one monotonic clock, so writer and watcher may be different processes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.http2 import Messages
from bench.operations import KeyRevisions, Update, parse_txn
from bench.unary_load import Operation, Slot
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.epoll_loop import Link, Loop

parse_watch = rpc_pb2.WatchResponse.FromString
PARSE_AT = 32 << 20  # bytes of answers kept before they are parsed


class Follower:
    """One watch stream with several watches. Notes the arrival of every event of every watch.

    Answers are stored unparsed and parsed later, so that parsing one does not delay the noted arrival of the
    next: with 10,000 watchers one put causes 10,000 messages.
    """

    passed = None

    def __init__(self, link: Link) -> None:
        self.stream = 0
        self.received = 0
        self.created = 0
        self.ended = ""  # the reason if the stream ended
        self.revisions = array("q")
        self.arrivals = array("d")
        self.errors: Counter[str] = Counter()
        self._link = link
        self._messages = Messages()
        self._raw: list[tuple[float, bytes]] = []
        self._raw_bytes = 0
        self._newest: dict[int, int] = {}  # by watch

    def open(self, requests: Sequence[bytes]) -> None:
        """Creates the watches, one request each, all on this stream."""
        self._link.call(self, etcd_requests.WATCH, requests[0], last=False)
        for request in requests[1:]:
            self._link.send(self, request)

    @property
    def oldest(self) -> int:
        """The revision up to which every watch of the stream has received its events."""
        return min(self._newest.values(), default=0)

    def data(self, payload: bytes) -> None:
        arrived = self._link.arrived
        self._raw += [(arrived, message) for message in self._messages.feed(payload)]
        self._raw_bytes += len(payload)
        if self._raw_bytes >= PARSE_AT:
            self.parse()

    def end(self, status: int, message: str) -> None:
        self.ended = f"watch ended with status {status}: {message}"
        self.errors[self.ended] += 1

    def parse(self) -> None:
        """Extracts the events from the stored answers."""
        raw, self._raw, self._raw_bytes = self._raw, [], 0
        newest = self._newest
        for arrived, message in raw:
            answer = parse_watch(message)
            if answer.created:
                self.created += 1
            if answer.canceled:
                self.errors[f"watch cancelled: {answer.cancel_reason or 'no reason given'}"] += 1
            watch = answer.watch_id
            seen = newest.get(watch, 0)
            for event in answer.events:
                revision = event.kv.mod_revision
                if revision <= seen:  # no two writes of the run share a revision
                    self.errors["an event came twice or out of order"] += 1
                seen = revision
                self.revisions.append(revision)
                self.arrivals.append(arrived)
            newest[watch] = seen


def open_watches(
    loop: Loop, links: Sequence[Link], requests: Sequence[bytes], timeout: float
) -> list[Follower]:
    """Spreads the watches over one stream a link and waits until the server has created them all.

    Raises TimeoutError or ConnectionError.
    """
    followers = []
    for number, link in enumerate(links):
        mine = requests[number :: len(links)]
        if mine:
            follower = Follower(link)
            follower.open(mine)
            followers.append(follower)
    deadline = monotonic() + timeout
    while True:
        loop.run(min(monotonic() + 0.05, deadline))
        for follower in followers:
            follower.parse()
            if follower.ended:
                raise ConnectionError(follower.ended)
        created = sum(f.created for f in followers)
        if created == len(requests):
            return followers
        if monotonic() >= deadline:
            raise TimeoutError(f"{created} of {len(requests)} watches were created within {timeout:g} s")


class Writes:
    """The times at which each acknowledged write was sent and acknowledged, by its revision."""

    def __init__(self) -> None:
        self.revisions = array("q")
        self.sent = array("d")
        self.acked = array("d")

    def note(self, slot: Slot, revision: int) -> None:
        self.revisions.append(revision)
        self.sent.append(slot.start)
        self.acked.append(slot.link.arrived)


class NotedUpdate(Update):
    """Updates that note the times of their writes."""

    def __init__(self, keys: Callable[[int], KeyRevisions], pool: list[bytes], writes: Writes) -> None:
        super().__init__(keys, pool)
        self._writes = writes

    def check(self, slot: Slot, body: bytes) -> str:
        wrong = super().check(slot, body)
        state: KeyRevisions = slot.state
        if not wrong and state.at not in state.unsure:
            self._writes.note(slot, state.revisions[state.at])
        return wrong


CREATE, UPDATE, DELETE = 0, 1, 2


class Churn(Operation):
    """Each slot creates an object, updates it twice, deletes it, and repeats this with a new one."""

    kinds = ("create", "update", "delete")
    _steps = (CREATE, UPDATE, UPDATE, DELETE)

    def __init__(self, prefix: bytes, worker: int, pool: list[bytes], writes: Writes) -> None:
        self._prefix = prefix
        self._worker = worker
        self._pool = pool
        self._writes = writes

    def begin(self, slot: Slot) -> None:
        slot.state = Cycle()

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        state: Cycle = slot.state
        kind = slot.kind = self._steps[state.step]
        value = self._pool[(slot.number + state.count) % len(self._pool)]
        if kind == CREATE:
            state.key = b"%bpod-%d-%d-%d" % (self._prefix, self._worker, slot.number, state.count)
            return etcd_requests.TXN, etcd_requests.create(state.key, value)
        if kind == UPDATE:
            return etcd_requests.TXN, etcd_requests.update(state.key, value, state.revision)
        return etcd_requests.TXN, etcd_requests.delete(state.key, state.revision)

    def check(self, slot: Slot, body: bytes) -> str:
        state: Cycle = slot.state
        answer = parse_txn(body)
        if not answer.succeeded:
            state.renew()
            return f"conflict on a key of one writer ({self.kinds[slot.kind]})"
        state.revision = answer.header.revision
        self._writes.note(slot, state.revision)
        state.step += 1
        if state.step == len(self._steps):
            state.renew()
        return ""

    def failed(self, slot: Slot) -> None:
        slot.state.renew()


class Cycle:
    """One slot's current object."""

    __slots__ = ("count", "key", "revision", "step")

    def __init__(self) -> None:
        self.key = b""
        self.revision = 0
        self.step = 0
        self.count = 0

    def renew(self) -> None:
        self.step = 0
        self.count += 1
