"""A store as a Kubernetes API server reads it, and a comparison of two such views.

The requests are those of its etcd3 store: a list by prefix in pages of 500 at the first page's revision, or
as one RangeStream; then a watch from the list's revision, and writes with a compare on the mod revision.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import grpc

from tests.client import Client, prefix_end
from tests.txn_ops import delete, get, modified, put

if TYPE_CHECKING:
    from kine.proto.kv_pb2 import KeyValue

PREFIX = b"/registry/"
_OWN = b"/registry/health"
PAGE = 500
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


class Item(NamedTuple):
    digest: bytes  # of the value
    lease: int
    create: int
    version: int
    mod: int


@dataclass(frozen=True, slots=True)
class View:
    revision: int
    items: dict[bytes, Item]
    leases: dict[int, int]  # seconds granted, by id


def view(client: Client, *, leases: bool = True, page: int = PAGE) -> View:
    """Reads a store as an API server does. `leases`: whether to query them; Go kine's id is the TTL."""
    items: dict[bytes, Item] = {}
    start, revision, total = PREFIX, 0, 0
    while True:
        answer = client.range(start, prefix_end(PREFIX), limit=page, revision=revision)
        revision = revision or answer.header.revision
        total = total or answer.count
        for kv in answer.kvs:
            assert kv.key not in items
            items[kv.key] = _item(kv)
        if not answer.more:
            break
        start = answer.kvs[-1].key + b"\0"
    assert len(items) == total, (len(items), total)
    items.pop(_OWN, None)
    ids = {item.lease for item in items.values() if item.lease}
    granted = {one: int(client.time_to_live(one).grantedTTL) if leases else one for one in sorted(ids)}
    return View(revision, items, granted)


def _item(kv: KeyValue) -> Item:
    digest = hashlib.sha256(kv.value).digest()
    return Item(digest, kv.lease, kv.create_revision, kv.version, kv.mod_revision)


def streamed(client: Client, seen: View) -> list[str]:
    """How the list by RangeStream differs from the one in pages."""
    items: dict[bytes, Item] = {}
    last = None
    for part in client.range_stream(PREFIX, prefix_end(PREFIX)):
        last = part
        items |= {kv.key: _item(kv) for kv in part.kvs if kv.key != _OWN}
    if last is None or last.header.revision != seen.revision or last.more:
        return [f"the stream of the list ends with {last}, its pages are of revision {seen.revision}"]
    return [] if items == seen.items else ["the list as a stream differs from the list in pages"]


def differences(source: View, target: View, *, versions: bool, revisions: bool, ttls: bool) -> list[str]:
    """Differences of the target from what is expected; the last three parameters say what it preserves."""
    found = []
    if missing := sorted(source.items.keys() - target.items.keys()):
        found.append(f"{len(missing)} keys are missing, {missing[0]!r} the first")
    if more := sorted(target.items.keys() - source.items.keys()):
        found.append(f"{len(more)} keys too many, {more[0]!r} the first")
    both = [name for name in source.items if name in target.items]
    for name in both:
        was, now = source.items[name], target.items[name]
        if (was.digest, was.lease) != (now.digest, now.lease):
            found.append(f"{name!r}: value or lease differs")
        # Go kine counts no versions.
        if versions and (was.create, was.version or now.version) != (now.create, now.version):
            found.append(f"{name!r}: create revision or version differs: {was} {now}")
        if revisions and was.mod != now.mod and now.mod <= source.revision:
            found.append(f"{name!r}: its revision is neither its own nor after all: {was.mod} {now.mod}")
    if not revisions:
        order = sorted(both, key=lambda name: (source.items[name].mod, target.items[name].mod))
        mods = [target.items[name].mod for name in order]
        if mods != sorted(mods):
            found.append("keys are in another order of revisions")
    if ttls and source.leases != target.leases:
        found.append(f"leases differ: {len(source.leases)} and {len(target.leases)}")
    return found


def used(client: Client, seen: View) -> None:
    """Goes on as an API server after its list: watches from there and writes; checks that nothing is lost."""
    names = sorted(seen.items)[:: max(1, len(seen.items) // 5)]
    with client.watch() as watch:
        watch.create(PREFIX, prefix_end(PREFIX), start_revision=seen.revision + 1, prev_kv=True)
        for number, name in enumerate(names):
            mod = seen.items[name].mod
            operation = put(name, b"after") if number % 2 else delete(name)
            answer = client.txn([modified(name, "=", mod)], [operation], [get(name)])
            assert answer.succeeded, (name, mod, answer)
        events = watch.events(len(names))
    assert [event.kv.key for event in events] == names
    for event in events:
        was = seen.items[event.kv.key]
        assert hashlib.sha256(event.prev_kv.value).digest() == was.digest
        assert event.prev_kv.mod_revision == was.mod


def refuses_what_was_before(client: Client, revision: int) -> bool:
    """Whether reads at a revision from before the move are refused, so that no revision has two meanings."""
    try:
        client.range(PREFIX, prefix_end(PREFIX), revision=revision, limit=1)
    except grpc.RpcError as error:
        return bool(error.details() == COMPACTED)
    return False
