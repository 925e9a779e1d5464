"""Settings of a soak; its keys and watches follow from them alone, so that all processes agree on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import etcd_requests

if TYPE_CHECKING:
    from bench.endpoint import Endpoint

ROOT = b"/registry/"
RESOURCES = (b"pods", b"leases", b"configmaps", b"secrets", b"endpointslices", b"replicasets", b"services")
LEASES = RESOURCES.index(b"leases")
EVENTS = len(RESOURCES)  # the resource whose keys expire with an etcd lease
PODS = 0  # the resource in which objects are created and deleted
ON_EVERYTHING = 4  # watches
ON_A_RESOURCE = 2  # watches of each
KEYS_A_NAMESPACE = 40  # of one resource
MIX = {  # parts per thousand, as bench.mixed_profile works them out; Events apart from other creates
    "lease": 480,  # update of a coordination.k8s.io Lease
    "get": 200,
    "update": 150,
    "create": 50,
    "delete": 50,
    "event": 10,  # created under an etcd lease, which ends it
    "list": 30,  # one page
    "count": 10,
    "grant": 10,  # an etcd lease for Events
    "watch": 10,  # opened, and closed once created
}
CLASSES = {  # of the latencies that are reported
    "read": ("get", "count"),
    "list": ("list",),
    "write": ("lease", "update", "create", "delete", "event", "grant"),
}


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """Settings of a soak. Times in seconds. `rate` 0: `share` of the capacity measured before."""

    endpoint: Endpoint
    keys: int = 100_000
    size: int = 1024  # bytes of a value; a Lease's is at most 400
    watchers: int = 5_000
    rate: float = 0.0
    share: float = 0.4
    duration: float = 3600.0
    warm_up: float = 900.0  # part of the duration, not judged
    find: float = 30.0  # duration of the capacity measurement
    compact: float = 300.0  # between compactions
    event_ttl: int = 60
    sample: float = 10.0
    page: int = 500
    clients: int = 64
    connections: int = 8
    watch_connections: int = 16
    timeout: float = 10.0
    seed: int = 1

    @property
    def compact_finding(self) -> float:
        """Seconds between compactions while the capacity is measured: the rate must leave room for them."""
        return self.find / 4

    @property
    def namespaces(self) -> int:
        return max(1, self.keys // (len(RESOURCES) * KEYS_A_NAMESPACE))

    @property
    def groups(self) -> int:
        """Pairs of resource and namespace, those of Events last."""
        return (len(RESOURCES) + 1) * self.namespaces


def group_of(settings: SoakSettings, number: int) -> int:
    """The group of the key `number`."""
    return number % len(RESOURCES) * settings.namespaces + number // len(RESOURCES) % settings.namespaces


def prefix_of(settings: SoakSettings, group: int) -> bytes:
    resource, namespace = divmod(group, settings.namespaces)
    name = RESOURCES[resource] if resource < EVENTS else b"events"
    return b"%b%b/ns-%04d/" % (ROOT, name, namespace)


def resource_prefix(resource: int) -> bytes:
    return b"%b%b/" % (ROOT, RESOURCES[resource] if resource < EVENTS else b"events")


def key_of(settings: SoakSettings, number: int) -> bytes:
    """The key of a permanent object."""
    return b"%bobject-%07d" % (prefix_of(settings, group_of(settings, number)), number)


@dataclass(frozen=True, slots=True)
class Watch:
    """The scope of one watch: `scope` is all, resource, group or key, and `of` says which one."""

    scope: str
    of: int = 0

    def request(self, settings: SoakSettings, watch_id: int) -> bytes:
        if self.scope == "key":
            return etcd_requests.watch(key_of(settings, self.of), b"", watch_id=watch_id)
        if self.scope == "group":
            prefix = prefix_of(settings, self.of)
        else:
            prefix = ROOT if self.scope == "all" else resource_prefix(self.of)
        return etcd_requests.watch(prefix, etcd_requests.prefix_end(prefix), watch_id=watch_id)


def watches(settings: SoakSettings) -> list[Watch]:
    """All watches: some on everything and on each resource, the rest on namespaces and single objects."""
    wide = [Watch("all")] * ON_EVERYTHING
    wide += [Watch("resource", resource) for resource in range(EVENTS + 1)] * ON_A_RESOURCE
    rest = max(0, settings.watchers - len(wide))
    on_groups = rest // 2
    narrow = [Watch("group", number % settings.groups) for number in range(on_groups)]
    step = max(1, settings.keys // max(1, rest - on_groups))
    narrow += [Watch("key", number * step % settings.keys) for number in range(rest - on_groups)]
    return (wide + narrow)[: settings.watchers]
