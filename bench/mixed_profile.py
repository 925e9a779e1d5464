"""The mixed profile: the calls of an API server to its store, in an assumed ratio.

The ratio is an assumption, derived for a cluster of 1,000 nodes in which two pods a second are created and
deleted:

- node Leases are renewed every 10 s by each kubelet, which makes 100 updates/s of small objects, about half
  of all calls; node status every 5 min, 3/s (Kubernetes enhancement 589, "Efficient Node Heartbeats");
- among the other writes updates lead: etcd's own Kubernetes traffic (tests/robustness/traffic/kubernetes.go)
  takes 90% updates, 5% creates, 5% deletes. A pod is created, bound, updated four times, deleted, and five
  Events are created for it, each under a lease: creates weigh more here than there;
- one etcd lease serves up to 1,000 Events or 5% of their TTL (k8s.io/apiserver lease_manager.go): grants
  are rare;
- most lists and watches are answered by the API server's watch cache; the rest are consistent reads of single
  objects, pages of 500, counts for metrics, and watches that caches open and reopen.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.operations import KeyRevisions, check_update, key_of, parse_range, parse_txn, values
from bench.unary_load import Operation, Slot
from bench.watch_load import Writes, parse_watch
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.worker_messages import Task

ASSUMED = {  # parts per thousand
    "lease": 480,  # update of a coordination.k8s.io Lease
    "get": 200,
    "update": 150,
    "create": 60,
    "delete": 50,
    "list": 30,  # one page
    "count": 10,
    "grant": 10,  # an etcd lease for Events
    "watch": 10,  # opened, and closed once created
}
SOURCE = (
    "assumed for 1,000 nodes with 2 new pods/s: node Leases every 10 s (KEP-589) are half of all calls, "
    "updates lead the other writes as in etcd's tests/robustness Kubernetes traffic, Events are created "
    "under shared leases, most lists and watches stay in the API server's watch cache"
)
LEASE_OBJECT_BYTES = 400
EVENT_TTL = 3600
parse_grant = rpc_pb2.LeaseGrantResponse.FromString


class Client:
    """One slot's objects: the Leases it renews, the objects it updates, and its own ones that it may
    delete."""

    __slots__ = ("created", "grant", "key", "leases", "made", "objects", "revision")

    def __init__(self, leases: KeyRevisions, objects: KeyRevisions) -> None:
        self.leases = leases
        self.objects = objects
        self.created: list[tuple[bytes, int]] = []
        self.grant = 0
        self.made = 0
        self.key = b""
        self.revision = 0  # the newest one seen


class Mixed(Operation):
    kinds = tuple(ASSUMED)

    def __init__(
        self, prefix: bytes, keys: Callable[[int], KeyRevisions], task: Task, *, seed: int, writes: Writes
    ) -> None:
        self._prefix = prefix
        self._own = keys
        self._task = task
        self._writes = writes
        self._pool = values(task.size, seed)
        self._lease_pool = values(LEASE_OBJECT_BYTES, seed)
        self._random = Random(seed)
        self._steps = list(accumulate(ASSUMED.values()))
        self._makers = (
            self._lease, self._get, self._update, self._create, self._delete,
            self._list, self._count, self._grant, self._watch,
        )  # fmt: skip
        self._end = etcd_requests.prefix_end(task.data_prefix)

    def begin(self, slot: Slot) -> None:
        own = self._own(slot.number)
        half = len(own.keys) // 2
        slot.state = Client(
            KeyRevisions(own.keys[:half], own.revisions[:half]),
            KeyRevisions(own.keys[half:], own.revisions[half:]),
        )

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        at = self._random.random() * self._steps[-1]
        slot.kind = next(i for i, step in enumerate(self._steps) if at < step)
        if slot.kind == self.kinds.index("delete") and not slot.state.created:
            slot.kind = self.kinds.index("create")
        return self._makers[slot.kind](slot.state)

    def _lease(self, client: Client) -> tuple[str, bytes]:
        return self._write(client.leases, self._lease_pool)

    def _update(self, client: Client) -> tuple[str, bytes]:
        return self._write(client.objects, self._pool)

    def _write(self, own: KeyRevisions, pool: list[bytes]) -> tuple[str, bytes]:
        at = own.at = (own.at + 1) % len(own.keys)
        own.turns += 1
        return etcd_requests.TXN, etcd_requests.update(
            own.keys[at], pool[own.turns % len(pool)], own.revisions[at]
        )

    def _get(self, client: Client) -> tuple[str, bytes]:
        client.key = key_of(self._task.data_prefix, self._random.randrange(self._task.keys))
        return etcd_requests.RANGE, etcd_requests.get(client.key)

    def _create(self, client: Client) -> tuple[str, bytes]:
        client.made += 1
        client.key = b"%bevent-%b-%d" % (self._prefix, client.leases.keys[0][-7:], client.made)
        return etcd_requests.TXN, etcd_requests.create(
            client.key, self._pool[client.made % len(self._pool)], client.grant
        )

    def _delete(self, client: Client) -> tuple[str, bytes]:
        key, revision = client.created.pop()
        return etcd_requests.TXN, etcd_requests.delete(key, revision)

    def _list(self, client: Client) -> tuple[str, bytes]:
        start = key_of(self._task.data_prefix, self._random.randrange(self._task.keys))
        return etcd_requests.RANGE, etcd_requests.range_of(start, self._end, limit=self._task.page)

    def _count(self, client: Client) -> tuple[str, bytes]:
        return etcd_requests.RANGE, etcd_requests.range_of(self._task.data_prefix, self._end, count_only=True)

    def _grant(self, client: Client) -> tuple[str, bytes]:
        return etcd_requests.LEASE_GRANT, etcd_requests.lease_grant(EVENT_TTL)

    def _watch(self, client: Client) -> tuple[str, bytes]:
        return etcd_requests.WATCH, etcd_requests.watch(self._prefix, etcd_requests.prefix_end(self._prefix))

    def check(self, slot: Slot, body: bytes) -> str:
        client: Client = slot.state
        match self.kinds[slot.kind]:
            case "lease":
                return self._check_write(slot, client.leases, body)
            case "update":
                return self._check_write(slot, client.objects, body)
            case "get":
                found = parse_range(body)
                return "" if [kv.key for kv in found.kvs] == [client.key] else "wrong answer: another key"
            case "create" | "delete" as kind:
                answer = parse_txn(body)
                if not answer.succeeded:
                    return f"conflict on a key of one writer ({kind})"
                self._writes.note(slot, answer.header.revision)
                if kind == "create":
                    client.created.append((client.key, answer.header.revision))
                return ""
            case "list":
                return "" if parse_range(body).kvs else "wrong answer: an empty page"
            case "count":
                return "" if parse_range(body).count == self._task.keys else "wrong answer: another count"
            case "grant":
                client.grant = parse_grant(body).ID
                return "" if client.grant else "wrong answer: a lease without an id"
            case "watch":
                return "" if parse_watch(body).created else "wrong answer: the watch was not created"
        return "wrong answer: to no known request"

    def _check_write(self, slot: Slot, own: KeyRevisions, body: bytes) -> str:
        wrong = check_update(own, body)
        if not wrong:
            self._writes.note(slot, own.revisions[own.at])
        return wrong

    def failed(self, slot: Slot) -> None:
        client: Client = slot.state
        own = {"lease": client.leases, "update": client.objects}.get(self.kinds[slot.kind])
        if own is not None:
            own.unsure.add(own.at)
