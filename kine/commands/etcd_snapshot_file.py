"""Reader of etcd's snapshots: `etcdctl snapshot save`, or `member/snap/db` of a stopped etcd.

It is a bbolt file, with its SHA-256 at the end if it is a snapshot. The bucket `key` has every revision that
is not compacted, by number; `lease` has the leases; `meta` has the compact revision.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from google.protobuf.message import DecodeError

from kine.commands.snapshot_file import checked
from kine.drivers.base import DriverError
from kine.etcd.bbolt import BboltError, BboltReader, is_bbolt
from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as rpc

if TYPE_CHECKING:
    from kine.commands.spool import KeySink

_DIGEST = 32
_SECTOR = 512  # page sizes are a multiple of it: the rest is the checksum
_REVISION = struct.Struct(">QxQ")  # main revision, "_", sub revision: its number in the transaction
_TOMBSTONE = b"t"
_STEP = 1024  # revisions


def is_one(start: bytes) -> bool:
    return is_bbolt(start)


def load(file: IO[bytes], into: KeySink) -> Iterator[int]:
    """Reads the file into `into`, yielding the bytes read in each step. Raises DriverError if damaged."""
    size = os.fstat(file.fileno()).st_size
    if size % _SECTOR == _DIGEST:
        yield from checked(file)
        size -= _DIGEST
    elif size % _SECTOR:
        raise DriverError(f"{file.name} is cut short: it ends within a page; use another copy")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last value read from it
    try:
        yield from _load(BboltReader(memoryview(mapped)[:size]), into)
    except (BboltError, DecodeError, struct.error) as error:
        raise DriverError(f"{file.name} is damaged: {error}; use another copy") from None


def _load(reader: BboltReader, into: KeySink) -> Iterator[int]:
    leases: dict[int, int] = {}
    for lease_id, value in reader.bucket(b"lease"):
        # leasepb.Lease has the TTL in field 2, where LeaseGrantRequest has the id.
        leases[int.from_bytes(lease_id, "big", signed=True)] = rpc.LeaseGrantRequest.FromString(
            bytes(value)
        ).ID
    newest = 0
    latest: dict[bytes, bytes] = {}  # revision by key
    for number, value in reader.bucket(b"meta"):
        if number in (b"finishedCompactRev", b"scheduledCompactRev"):
            newest = max(newest, _REVISION.unpack_from(value)[0])
    for count, (revision, value) in enumerate(reader.bucket(b"key")):
        newest = max(newest, _REVISION.unpack_from(revision)[0])
        key = kv.KeyValue.FromString(bytes(value)).key
        if revision.endswith(_TOMBSTONE) and len(revision) > _REVISION.size:
            latest.pop(key, None)
        elif key:  # an empty key: etcdutl has only raised the revision
            latest[key] = revision
        if count % _STEP == 0:
            yield 0
    into.begin(newest)
    for count, (revision, value) in enumerate(reader.bucket(b"key")):
        item = kv.KeyValue.FromString(bytes(value))
        if latest.get(item.key) == revision:
            if item.lease and (ttl := leases.get(item.lease, 0)):
                if ttl > 0:
                    into.lease(item.lease, ttl)
                    leases[item.lease] = -ttl  # negative: passed on already
            elif item.lease:
                item.lease = 0  # its lease is gone: as in etcd, the key stays
            into.add(item)
        if count % _STEP == 0:
            yield 0
