"""The requests of kube-apiserver's storage, byte for byte as its Go client encodes them.

They are encoded here rather than through message objects, which takes half the time, and the driver's time
counts. Shapes after k8s.io/apiserver/pkg/storage/etcd3/store.go and
go.etcd.io/etcd/client/v3/kubernetes/client.go.
"""

from __future__ import annotations

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
DELETE_RANGE = "/etcdserverpb.KV/DeleteRange"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
STATUS = "/etcdserverpb.Maintenance/Status"
DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"


def _encode(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = [_encode(n) for n in range(1 << 14)]


def varint(number: int) -> bytes:
    return _SMALL[number] if number < 1 << 14 else _encode(number)


def sized(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field."""
    return tag + varint(len(content)) + content


def _put(key: bytes, value: bytes, lease: int) -> bytes:
    put = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value
    if lease:
        put += b"\x18" + varint(lease)
    return b"\x12" + varint(len(put)) + put


def _mod_is(key: bytes, revision: int) -> bytes:
    """`MOD(key) = revision`; Go encodes the revision even when it is 0, because it is a oneof."""
    return sized(b"\x0a", b"\x10\x02\x1a" + varint(len(key)) + key + b"\x30" + varint(revision))


def create(key: bytes, value: bytes, lease: int = 0) -> bytes:
    """Txn: put the key if it does not exist."""
    return _mod_is(key, 0) + sized(b"\x12", _put(key, value, lease))


def update(key: bytes, value: bytes, revision: int, lease: int = 0) -> bytes:
    """Txn: put the key if it is still at `revision`, else get it."""
    got = sized(b"\x1a", sized(b"\x0a", sized(b"\x0a", key)))
    return _mod_is(key, revision) + sized(b"\x12", _put(key, value, lease)) + got


def delete(key: bytes, revision: int) -> bytes:
    """Txn: delete the key if it is still at `revision`, else get it."""
    named = sized(b"\x0a", key)
    return (
        _mod_is(key, revision) + sized(b"\x12", sized(b"\x1a", named)) + sized(b"\x1a", sized(b"\x0a", named))
    )


def put(key: bytes, value: bytes, lease: int = 0) -> bytes:
    """A PutRequest."""
    body = sized(b"\x0a", key) + sized(b"\x12", value)
    return body + b"\x18" + varint(lease) if lease else body


def get(key: bytes, revision: int = 0) -> bytes:
    return sized(b"\x0a", key) + (b"\x20" + varint(revision) if revision else b"")


def range_of(key: bytes, end: bytes, *, limit: int = 0, revision: int = 0, count_only: bool = False) -> bytes:
    """A RangeRequest over [key, end)."""
    body = sized(b"\x0a", key) + sized(b"\x12", end)
    if limit:
        body += b"\x18" + varint(limit)
    if revision:
        body += b"\x20" + varint(revision)
    return body + b"\x48\x01" if count_only else body


def watch(key: bytes, end: bytes, *, start: int = 0, watch_id: int = 0, prev_kv: bool = True) -> bytes:
    """A WatchRequest creating a watch of [key, end), or of the one key if `end` is empty.

    Asks for progress notifications and, with `prev_kv`, old values, as kube-apiserver does.
    """
    body = sized(b"\x0a", key)
    if end:
        body += sized(b"\x12", end)
    if start:
        body += b"\x18" + varint(start)
    body += b"\x20\x01"
    if prev_kv:
        body += b"\x30\x01"
    if watch_id:
        body += b"\x38" + varint(watch_id)
    return sized(b"\x0a", body)


def cancel_watch(watch_id: int) -> bytes:
    return sized(b"\x12", b"\x08" + varint(watch_id) if watch_id else b"")


def lease_grant(ttl: int) -> bytes:
    return b"\x08" + varint(ttl)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all those that start with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
