"""The calls of the soak: an API server's mix on permanent objects, short-lived pods and expiring Events.

One process makes all calls, and no two calls in flight concern the same object. So the process knows the
revision of each object, and checks every get and update against it.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import accumulate
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.operations import parse_range, parse_txn, values
from bench.soak.event_counts import Written, zeros
from bench.soak.soak_settings import (
    EVENTS,
    LEASES,
    MIX,
    PODS,
    RESOURCES,
    SoakSettings,
    Watch,
    group_of,
    key_of,
    prefix_of,
    resource_prefix,
    watches,
)
from bench.unary_load import Load, Operation, Slot
from bench.watch_load import parse_watch
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE_OBJECT_BYTES = 400
PODS_KEPT = 2_000  # short-lived pods at the same time, at most
STAMP = slice(5, 25)  # part of a value: the monotonic time at which it was sent
parse_grant = rpc_pb2.LeaseGrantResponse.FromString
KINDS = tuple(MIX)
LEASE, GET, UPDATE, CREATE, DELETE, EVENT, LIST, COUNT, GRANT, WATCH = range(len(KINDS))


def stamped(pool: list[bytes], turn: int) -> bytes:
    """A value that contains the time of sending."""
    return b'{"t":%020.9f' % monotonic() + pool[turn % len(pool)][25:]


class Call:
    """The subject of a slot's request in flight."""

    __slots__ = ("key", "lease", "number", "pages", "revision")

    def __init__(self) -> None:
        self.number = -1  # of a permanent object
        self.key = b""
        self.revision = 0
        self.lease = 0
        self.pages: Pages | None = None


class Pages:
    """The progress of one paged list."""

    __slots__ = ("count", "end", "found", "key", "revision", "started")

    def __init__(self, prefix: bytes) -> None:
        self.key = prefix
        self.end = etcd_requests.prefix_end(prefix)
        self.revision = self.count = self.found = 0
        self.started = monotonic()


class Objects:
    """The expected content of the server, kept over the runs of a soak, and the counts of the writes."""

    def __init__(self, settings: SoakSettings) -> None:
        self.settings = settings
        self.revisions = zeros(settings.keys)
        self.written = Written.empty(settings)
        self.pods: deque[tuple[bytes, int, int]] = deque()  # key, revision, group
        self.made = 0
        self.events = 0  # of puts, that the watches should have received by now
        self.busy: set[int] = set()
        self._followed = zeros(settings.groups)  # watches by group, wide ones included
        self._key_watches = array("H", bytes(2 * settings.keys))
        for watch in watches(settings):
            self._follow(watch)

    def _follow(self, watch: Watch) -> None:
        spans = self.settings.namespaces
        if watch.scope == "key":
            self._key_watches[watch.of] += 1
        elif watch.scope == "group":
            self._followed[watch.of] += 1
        else:
            first, last = (watch.of, watch.of + 1) if watch.scope == "resource" else (0, EVENTS + 1)
            for group in range(first * spans, last * spans):
                self._followed[group] += 1

    def put(self, group: int, revision: int, number: int = -1) -> None:
        """Records an acknowledged put, of the object `number` if it is a permanent one."""
        written = self.written
        written.puts[group] += 1
        written.sums[group] += revision
        self.events += self._followed[group]
        if number >= 0:
            written.key_puts[number] += 1
            written.key_sums[number] += revision
            self.revisions[number] = revision
            self.events += self._key_watches[number]


class LoadObjects(Operation):
    """Creates the permanent objects, and updates each once. Not counted: the watches begin after.

    A row also stores its key's previous value. Without the update, the database would grow until every object
    has one.
    """

    kinds = ("create", "update")

    def __init__(self, objects: Objects, told: Callable[[int], None]) -> None:
        self._objects = objects
        self._numbers = iter(range(objects.settings.keys))
        self._pool = values(objects.settings.size, objects.settings.seed)
        self._told = told
        self._done = 0

    def begin(self, slot: Slot) -> None:
        slot.state = None  # the number of the object that the slot has created and not yet updated

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        settings, number = self._objects.settings, slot.state
        slot.kind = 0 if number is None else 1
        if number is not None:
            revision = self._objects.revisions[number]
            return etcd_requests.TXN, etcd_requests.update(
                key_of(settings, number), self._value(number), revision
            )
        number = slot.state = next(self._numbers, None)
        if number is None:
            return None
        return etcd_requests.TXN, etcd_requests.create(key_of(settings, number), self._value(number))

    def _value(self, number: int) -> bytes:
        small = number % len(RESOURCES) == LEASES
        return stamped(self._pool, number)[: LEASE_OBJECT_BYTES if small else None]

    def check(self, slot: Slot, body: bytes) -> str:
        answer = parse_txn(body)
        if not answer.succeeded:
            return "wrong answer: a new key exists, or has changed"
        self._objects.revisions[slot.state] = answer.header.revision
        if slot.kind == 0:
            return ""
        slot.state = None
        self._done += 1
        if self._done % (self._objects.settings.keys // 50) == 0:
            self._told(self._done)
        return ""


class _AllBusyError(Exception):
    """All objects of a kind are the subject of calls in flight."""


class Traffic(Operation):
    """The mix of calls. Rates and checks are the same in a closed and an open loop."""

    kinds = KINDS

    def __init__(self, objects: Objects, seed: int) -> None:
        settings = self._settings = objects.settings
        self._objects = objects
        self._pool = values(settings.size, settings.seed)
        self._small = values(min(LEASE_OBJECT_BYTES, settings.size), settings.seed)
        self._random = Random(seed)
        self._steps = list(accumulate(MIX.values()))
        self._lease_count = len(range(LEASES, settings.keys, len(RESOURCES)))
        self._lease = 0  # the newest etcd lease
        self._lease_until = 0.0  # end of the time in which Events are created under it
        self._makers = (
            self._update_lease, self._get, self._update, self._create, self._delete, self._event,
            self._list, self._count, self._grant, self._watch,
        )  # fmt: skip
        self._stopped = False
        self.kept = settings.compact  # seconds of history that the server keeps, at least

    def begin(self, slot: Slot) -> None:
        slot.state = Call()

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        at = self._random.random() * self._steps[-1]
        kind = next(i for i, step in enumerate(self._steps) if at < step)
        if kind == DELETE and not self._objects.pods:
            kind = CREATE
        elif kind == CREATE and len(self._objects.pods) >= PODS_KEPT:
            kind = DELETE
        elif kind == EVENT and monotonic() > self._lease_until:
            kind = GRANT
        slot.kind = kind
        try:
            return self._makers[kind](slot.state)
        except _AllBusyError:  # as on a slow machine, where most calls of an open loop are in flight
            slot.kind = COUNT
            return self._count(slot.state)

    # ---- requests

    def _pick(self, first: int, step: int, count: int) -> int:
        """A random object that is not the subject of a call in flight. Raises _AllBusyError."""
        busy = self._objects.busy
        start = int(self._random.random() * count)
        for offset in range(count):
            number = first + step * ((start + offset) % count)
            if number not in busy:
                busy.add(number)
                return number
        raise _AllBusyError

    def _update_lease(self, call: Call) -> tuple[str, bytes]:
        return self._put(call, self._pick(LEASES, len(RESOURCES), self._lease_count), self._small)

    def _update(self, call: Call) -> tuple[str, bytes]:
        return self._put(call, self._pick(0, 1, self._settings.keys), self._pool)

    def _put(self, call: Call, number: int, pool: list[bytes]) -> tuple[str, bytes]:
        call.number = number
        key, revision = key_of(self._settings, number), self._objects.revisions[number]
        return etcd_requests.TXN, etcd_requests.update(key, stamped(pool, number), revision)

    def _get(self, call: Call) -> tuple[str, bytes]:
        call.number = self._pick(0, 1, self._settings.keys)
        call.key = key_of(self._settings, call.number)
        return etcd_requests.RANGE, etcd_requests.get(call.key)

    def _create(self, call: Call) -> tuple[str, bytes]:
        return self._make(call, PODS, b"pod", 0)

    def _event(self, call: Call) -> tuple[str, bytes]:
        return self._make(call, EVENTS, b"event", self._lease)

    def _make(self, call: Call, resource: int, name: bytes, lease: int) -> tuple[str, bytes]:
        made = self._objects.made = self._objects.made + 1
        call.number = resource * self._settings.namespaces + made % self._settings.namespaces  # its group
        call.key = b"%b%b-%d" % (prefix_of(self._settings, call.number), name, made)
        return etcd_requests.TXN, etcd_requests.create(call.key, stamped(self._pool, made), lease)

    def _delete(self, call: Call) -> tuple[str, bytes]:
        call.key, call.revision, call.number = self._objects.pods.popleft()
        return etcd_requests.TXN, etcd_requests.delete(call.key, call.revision)

    def _list(self, call: Call) -> tuple[str, bytes]:
        pages = call.pages
        # A paged list that takes longer than history is kept would fail with a compacted revision.
        if pages is None or monotonic() - pages.started > self.kept / 2:
            resource = int(self._random.random() * len(RESOURCES))
            pages = call.pages = Pages(resource_prefix(resource))
        request = etcd_requests.range_of(
            pages.key, pages.end, limit=self._settings.page, revision=pages.revision
        )
        return etcd_requests.RANGE, request

    def _count(self, call: Call) -> tuple[str, bytes]:
        call.number = int(self._random.random() * len(RESOURCES))
        prefix = resource_prefix(call.number)
        return etcd_requests.RANGE, etcd_requests.range_of(
            prefix, etcd_requests.prefix_end(prefix), count_only=True
        )

    def _grant(self, call: Call) -> tuple[str, bytes]:
        return etcd_requests.LEASE_GRANT, etcd_requests.lease_grant(self._settings.event_ttl)

    def _watch(self, call: Call) -> tuple[str, bytes]:
        prefix = prefix_of(self._settings, int(self._random.random() * self._settings.groups))
        return etcd_requests.WATCH, etcd_requests.watch(prefix, etcd_requests.prefix_end(prefix))

    # ---- answers

    def check(self, slot: Slot, body: bytes) -> str:
        call: Call = slot.state
        match slot.kind:
            case 0 | 2:  # LEASE, UPDATE
                return self._check_update(call, body)
            case 1:  # GET
                return self._check_get(call, body)
            case 3 | 4 | 5:  # CREATE, DELETE, EVENT
                return self._check_churn(slot.kind, call, body)
            case 6:  # LIST
                return self._check_page(call, body)
            case 7:  # COUNT
                return self._check_count(call, body)
            case 8:  # GRANT
                self._lease = parse_grant(body).ID
                self._lease_until = monotonic() + self._settings.event_ttl / 3
                return "" if self._lease else "wrong answer: a lease without an id"
        return "" if parse_watch(body).created else "wrong answer: the watch was not created"

    def _check_update(self, call: Call, body: bytes) -> str:
        number, objects = call.number, self._objects
        objects.busy.discard(number)
        answer = parse_txn(body)
        if not answer.succeeded:
            kvs = answer.responses[0].response_range.kvs if answer.responses else ()
            if kvs:
                objects.revisions[number] = kvs[0].mod_revision
            return "wrong answer: a conflict on an object of one writer"
        if answer.header.revision <= objects.revisions[number]:
            return "wrong answer: an update's revision is not newer"
        objects.put(group_of(self._settings, number), answer.header.revision, number)
        return ""

    def _check_get(self, call: Call, body: bytes) -> str:
        self._objects.busy.discard(call.number)
        kvs = parse_range(body).kvs
        if len(kvs) != 1 or kvs[0].key != call.key:
            return "wrong answer: another key, or none"
        if kvs[0].mod_revision != self._objects.revisions[call.number]:
            self._objects.revisions[call.number] = kvs[0].mod_revision  # so that one error is reported once
            return "wrong answer: not the object's newest revision"
        return ""

    def _check_churn(self, kind: int, call: Call, body: bytes) -> str:
        answer = parse_txn(body)
        if not answer.succeeded:
            return f"wrong answer: a conflict on an object of one writer ({KINDS[kind]})"
        if kind == DELETE:
            self._objects.written.deletes[call.number] += 1
            return ""
        self._objects.put(call.number, answer.header.revision)
        if kind == CREATE:
            self._objects.pods.append((call.key, answer.header.revision, call.number))
        return ""

    def _check_page(self, call: Call, body: bytes) -> str:
        pages, answer = call.pages, parse_range(body)
        assert pages is not None
        if pages.revision == 0:
            pages.revision, pages.count = answer.header.revision, answer.count
        call.pages = None
        if answer.count != pages.count - pages.found:
            return "wrong answer: a page with another count than its list"
        if len(answer.kvs) != min(self._settings.page, answer.count):
            return "wrong answer: a page of another length"
        pages.found += len(answer.kvs)
        if answer.more != (pages.found < pages.count):
            return "wrong answer: a page with another more"
        if answer.more:
            pages.key = answer.kvs[-1].key + b"\0"
            call.pages = pages
        return ""

    def _check_count(self, call: Call, body: bytes) -> str:
        fixed = len(range(call.number, self._settings.keys, len(RESOURCES)))
        most = fixed + (PODS_KEPT + self._settings.clients if call.number == PODS else 0)
        return "" if fixed <= parse_range(body).count <= most else "wrong answer: another count"

    def failed(self, slot: Slot) -> None:
        call: Call = slot.state
        if slot.kind in (LEASE, UPDATE, GET):
            self._objects.busy.discard(call.number)
        if slot.kind == LIST:
            call.pages = None
        if slot.kind in (LEASE, UPDATE, CREATE, DELETE, EVENT):
            self._objects.written.unsure += 1


class Sampled(Load):
    """A load that returns its latencies every `every` seconds instead of storing them."""

    every = 0.0
    told: Callable[[Sampled], None] | None = None
    _next = 0.0

    def _expire(self, now: float) -> None:
        super()._expire(now)
        if self.told is None:
            return
        if not self._next:
            self._next = self.begin + self.every
        if now >= self._next:
            self._next += self.every
            self.told(self)
