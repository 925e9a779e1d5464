"""The file of `kine snapshot`; docs/operations.md tells its format.

magic      8 bytes, "KINESNP1"
records    gzip; each: 4 bytes length, big-endian, of what follows; 1 byte kind; the payload
           H  JSON: revision, keys, leases, made (RFC 3339), by
           L  etcdserverpb.LeaseGrantRequest
           K  mvccpb.KeyValue
           E  nothing: the last one
trailer    32 bytes, SHA-256 of everything before it
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from kine.drivers.base import DriverError
from kine.etcd.proto import kv_pb2 as kv
from kine.etcd.proto import rpc_pb2 as rpc

if TYPE_CHECKING:
    from kine.commands.transfer import Spool

MAGIC = b"KINESNP1"
_DIGEST = 32
_BLOCK = 1024 * 1024


class _Hashed:
    """A file that knows the checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save(spool: Spool, path: str, by: str) -> None:
    """Whole or not at all: under another name until it is on disk. Mode 0600."""
    partial = f"{path}.partial"
    header = {
        "revision": spool.revision,
        "keys": len(spool.entries),
        "leases": len(spool.leases),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
    }
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        hashed = _Hashed(file)
        hashed.write(MAGIC)
        with gzip.GzipFile("", "wb", 3, hashed, 0) as packed:
            _record(packed, b"H", json.dumps(header).encode())
            for lease, ttl in spool.leases.items():
                _record(packed, b"L", rpc.LeaseGrantRequest(ID=lease, TTL=ttl).SerializeToString())
            for entry in spool.entries.values():
                _record(packed, b"K", spool.get(entry).SerializeToString())
            _record(packed, b"E", b"")
        file.write(hashed.digest.digest())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _record(file: Any, kind: bytes, payload: bytes) -> None:
    file.write((len(payload) + 1).to_bytes(4, "big") + kind + payload)


def load(path: str, spool: Spool) -> dict[str, Any]:
    """Its header; the rest goes into the spool. Raises DriverError for a file that is damaged or none."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - _DIGEST
        if size < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
            raise DriverError(f"{path} is no snapshot of kine snapshot save")
        file.seek(0)
        digest = hashlib.sha256()
        left = size
        while left:
            block = file.read(min(_BLOCK, left))
            digest.update(block)
            left -= len(block)
        if digest.digest() != file.read(_DIGEST):
            raise DriverError(f"{path} is damaged or cut short: its checksum is another; use another copy")
        file.seek(len(MAGIC))
        return _load(gzip.GzipFile(fileobj=file), spool)


def _load(packed: gzip.GzipFile, spool: Spool) -> dict[str, Any]:
    header: dict[str, Any] = {}
    while True:
        size = int.from_bytes(packed.read(4), "big")
        record = packed.read(size)
        kind, payload = record[:1], record[1:]
        if kind == b"H":
            header = json.loads(payload)
            spool.revision = header["revision"]
        elif kind == b"L":
            lease = rpc.LeaseGrantRequest.FromString(payload)
            spool.leases[lease.ID] = lease.TTL
        elif kind == b"K":
            spool.add(kv.KeyValue.FromString(payload))
        elif kind == b"E":
            return header
        else:
            raise DriverError("the snapshot was made by a newer kine: it holds a record of an unknown kind")
