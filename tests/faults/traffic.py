"""The traffic: many clients, each sending a sequence of Kubernetes-like calls drawn from one seed.

Every value is written once in a run, so an event identifies the call it comes from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import grpc

from tests.client import Client, prefix_end
from tests.txn_ops import delete, get, modified, put

if TYPE_CHECKING:
    from kine.proto import kv_pb2 as kv
    from kine.proto import rpc_pb2 as pb

PREFIX = b"/registry/faults/"
END = prefix_end(PREFIX)
CALL_TIMEOUT = 6.0  # seconds
_PAUSE = 0.05  # seconds after a failure
# Errors that state that nothing was applied; any other failure leaves the outcome unknown.
_CERTAIN = {"etcdserver: unhealthy cluster", "etcdserver: mvcc: database space exceeded"}
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"

# Of a hundred calls.
_MIX = (
    ("create", 12), ("update", 26), ("delete", 8), ("put", 10), ("pair", 4),
    ("get", 22), ("list", 8), ("page", 3), ("past", 4), ("stale", 3),
)  # fmt: skip
_KINDS = [kind for kind, weight in _MIX for _ in range(weight)]
WRITES = {"create", "update", "delete", "put", "pair"}


class Outcome(Enum):
    DONE = "done"
    REFUSED = "refused"  # nothing was applied, for certain
    UNKNOWN = "unknown"


class Seen(NamedTuple):
    """A key-value in a response."""

    key: bytes
    value: bytes
    mod: int
    create: int
    version: int


def seen(item: kv.KeyValue) -> Seen:
    return Seen(item.key, item.value, item.mod_revision, item.create_revision, item.version)


@dataclass(slots=True)
class Call:
    """A call and its outcome. Times are nanoseconds of one clock."""

    client: int
    instance: int
    kind: str
    keys: tuple[bytes, ...]  # none for a list, which is of everything
    called: int
    values: tuple[bytes, ...] = ()
    expected: int = 0  # the mod_revision it rests on
    asked: int = 0  # the revision it wants to read at
    limit: int = 0
    returned: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    error: str = ""
    revision: int = 0  # the header's
    succeeded: bool = True
    found: tuple[Seen, ...] = ()


@dataclass
class Known:
    """Shared hints of what clients have seen lately, so that most updates succeed. Only approximate."""

    mods: dict[bytes, int] = field(default_factory=dict)
    revision: int = 0
    floor: int = 0  # compacted up to here

    def learn(self, call: Call) -> None:
        self.revision = max(self.revision, call.revision)
        for item in call.found:
            self.mods[item.key] = item.mod
        if call.kind in ("get", "update", "delete", "create") and not call.found:
            gone = call.kind == "get" or (call.kind == "delete") == call.succeeded
            if gone:
                self.mods.pop(call.keys[0], None)
        if call.values and call.succeeded:
            self.mods[call.keys[-1]] = call.revision


Address = Callable[[int], str]  # of an instance, "" while it is down


class Caller:
    """One client: a thread that sends one call at a time, to an instance that it changes now and then."""

    def __init__(
        self,
        number: int,
        seed: str,
        keys: int,
        instances: Callable[[], list[int]],
        address: Address,
        known: Known,
    ) -> None:
        self.number = number
        self.calls: list[Call] = []
        self.done = 0  # calls whose outcome is known
        self._random = Random(f"{seed}/{number}")
        self._keys = [PREFIX + b"%02d" % key for key in range(keys)]
        self._instances = instances
        self._address = address
        self._known = known
        self._instance = -1
        self._client: Client | None = None
        self._written = 0

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._one(stop)
        finally:
            if self._client is not None:
                self._client.close()

    def _one(self, stop: threading.Event) -> None:
        draw = self._random
        kind, key, other = draw.choice(_KINDS), *draw.sample(self._keys, 2)
        wander, back, which = draw.random() < 0.1, draw.randrange(1, 200), draw.random()
        client = self._connected(wander, which)
        if client is None:
            stop.wait(_PAUSE)
            return
        call = Call(self.number, self._instance, kind, (key,), 0)
        self._prepare(call, other, back)
        call.called = time.monotonic_ns()
        try:
            self._send(client, call)
        except grpc.RpcError as error:
            call.error = error.details() or error.code().name
            if call.error in _CERTAIN or call.error == _COMPACTED:
                call.outcome = Outcome.REFUSED
        else:
            call.outcome = Outcome.DONE
            self._known.learn(call)
        call.returned = time.monotonic_ns()
        self.calls.append(call)
        if call.outcome is Outcome.DONE:
            self.done += 1
        elif call.error != _COMPACTED:
            self._instance = -1  # elsewhere, the next time
            stop.wait(_PAUSE)

    def _connected(self, wander: bool, which: float) -> Client | None:
        instances = self._instances()
        if self._instance not in instances or wander:
            if not instances:
                return None
            self._instance = instances[int(which * len(instances))]
        address = self._address(self._instance)
        if not address:
            self._instance = -1
            return None
        if self._client is None or self._client.address != address:
            if self._client is not None:
                self._client.close()
            self._client = Client(address, timeout=CALL_TIMEOUT)
        return self._client

    def _prepare(self, call: Call, other: bytes, back: int) -> None:
        known = self._known
        if call.kind in ("create", "update", "put", "pair"):
            if call.kind == "pair":
                call.keys = (call.keys[0], other)
            call.values = tuple(self._value() for _ in call.keys)
        if call.kind in ("update", "delete"):
            call.expected = known.mods.get(call.keys[0], 0)
            if not call.expected:  # not known to exist: create it
                call.kind = "create"
                call.values = call.values or (self._value(),)
        if call.kind in ("list", "page", "past"):
            call.keys = ()
        if call.kind == "page":
            call.limit = 1 + back % 5
        if call.kind == "past":
            call.asked = max(1, known.floor, known.revision - back)

    def _value(self) -> bytes:
        self._written += 1
        return b"%d.%d" % (self.number, self._written)

    def _send(self, client: Client, call: Call) -> None:
        if call.kind in ("create", "update", "delete"):
            key = call.keys[0]
            change = delete(key, prev_kv=True) if call.kind == "delete" else put(key, call.values[0])
            answer = client.txn([modified(key, "=", call.expected)], [change], [get(key)])
            call.succeeded = answer.succeeded
            if not answer.succeeded:
                call.found = tuple(map(seen, answer.responses[0].response_range.kvs))
        elif call.kind == "put":
            answer = client.put(call.keys[0], call.values[0])
        elif call.kind == "pair":
            answer = client.txn(
                [], [put(key, value) for key, value in zip(call.keys, call.values, strict=True)]
            )
        else:
            answer = self._read(client, call)
        call.revision = answer.header.revision

    def _read(self, client: Client, call: Call) -> pb.RangeResponse:
        key, end = (call.keys[0], b"") if call.keys else (PREFIX, END)
        answer = client.range(
            key, end, revision=call.asked, limit=call.limit, serializable=call.kind == "stale"
        )
        call.found = tuple(map(seen, answer.kvs))
        return answer
