"""Reader and writer of kine's snapshot file, whose format docs/operations.md describes.

magic      8 bytes, "KINESNP1"
records    gzip; each: 4 bytes length, big-endian, of what follows; 1 byte kind; the payload
           L  etcdserverpb.LeaseGrantRequest, before the first key that hangs on it
           K  mvccpb.KeyValue
           H  JSON: revision, keys, leases, made (RFC 3339), by
           E  nothing: the last one
trailer    32 bytes, SHA-256 of everything before it
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from typing import IO, TYPE_CHECKING, Any, Self, cast

from google.protobuf.message import DecodeError

from kine.drivers.base import DriverError
from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as rpc

if TYPE_CHECKING:
    from kine.commands.spool import KeySink

MAGIC = b"KINESNP1"
_DIGEST = 32
_BLOCK = 1024 * 1024
_STEP = 256  # records


class SnapshotWriter:
    """Writes a snapshot atomically, under another name until it is on disk. Mode 0600.

    A context manager and a `kine.commands.spool.KeySink`.
    """

    def __init__(self, path: str, by: str, *, force: bool) -> None:
        self._path = path
        self._partial = f"{path}.partial"
        self._force = force
        self.header = {"revision": 0, "keys": 0, "leases": 0, "made": "", "by": by}
        self.digest = hashlib.sha256()

    def __enter__(self) -> Self:
        if os.path.lexists(self._path) and (os.path.islink(self._path) or not os.path.isfile(self._path)):
            raise ValueError(f"{self._path} is not a regular file, and is never replaced; name another file")
        if not self._force and os.path.lexists(self._path):
            raise ValueError(f"{self._path} exists; name another file, or add --force to replace it")
        folder = os.path.dirname(self._path)
        if folder and not os.path.isdir(folder):
            raise DriverError(f"there is no directory {folder} to write {self._path} in; make it first")
        with self._named():
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = open(descriptor, "wb")  # closed in __exit__
            self.write(MAGIC)
            self._packed = gzip.GzipFile("", "wb", 3, cast("IO[bytes]", self), 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._named():
                if kind is None:
                    self._finish()
        finally:
            with suppress(OSError):  # buffered data of a failed snapshot is not needed
                self._file.close()
            with suppress(FileNotFoundError):
                os.unlink(self._partial)

    def begin(self, revision: int) -> None:
        self.header["revision"] = revision

    def lease(self, lease_id: int, ttl: int) -> None:
        self.header["leases"] = cast("int", self.header["leases"]) + 1
        self._record(b"L", rpc.LeaseGrantRequest(ID=lease_id, TTL=ttl).SerializeToString())

    def add(self, item: Any) -> None:
        self.header["keys"] = cast("int", self.header["keys"]) + 1
        self._record(b"K", item.SerializeToString())

    def write(self, data: bytes) -> int:
        """Takes the compressor's output."""
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def _record(self, kind: bytes, payload: bytes) -> None:
        with self._named():
            self._packed.write((len(payload) + 1).to_bytes(4, "big") + kind + payload)

    def _finish(self) -> None:
        self.header["made"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._record(b"H", json.dumps(self.header).encode())
        self._record(b"E", b"")
        self._packed.close()
        self._file.write(self.digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._force:
            os.replace(self._partial, self._path)
        else:
            try:
                os.link(self._partial, self._path)  # unlike a rename, does not replace a file
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                os.replace(self._partial, self._path)
        folder = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)  # makes the file's name durable too
        finally:
            os.close(folder)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns an OSError into a DriverError with the file's final name."""
        try:
            yield
        except OSError as error:
            raise DriverError(f"{self._path} cannot be written: {error.strerror}") from error


def is_one(start: bytes) -> bool:
    """True if a file that starts with these bytes is a kine snapshot."""
    return start.startswith(MAGIC)


def load(file: IO[bytes], into: KeySink) -> Iterator[int]:
    """Reads the file into `into`, yielding the bytes read in each step. Raises DriverError if damaged."""
    yield from checked(file)
    file.seek(len(MAGIC))
    try:
        yield from _load(file, into)
    except (EOFError, zlib.error, gzip.BadGzipFile, DecodeError, KeyError):
        raise DriverError(f"{file.name} is damaged: its records are cut short; use another copy") from None


def checked(file: IO[bytes]) -> Iterator[int]:
    """Verifies the SHA-256 at the end of a file, yielding the bytes read. Raises DriverError."""
    file.seek(0)
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - _DIGEST
    while left > 0:
        block = file.read(min(_BLOCK, left))
        digest.update(block)
        left -= len(block)
        yield len(block)
    if left < 0 or digest.digest() != file.read(_DIGEST):
        raise DriverError(f"{file.name} is damaged or cut short: its checksum differs; use another copy")


def _load(file: IO[bytes], into: KeySink) -> Iterator[int]:
    packed, at = gzip.GzipFile(fileobj=file), 0
    for number in count():
        size = int.from_bytes(packed.read(4), "big")
        record = packed.read(size)
        kind, payload = record[:1], record[1:]
        if kind == b"K":
            into.add(kv.KeyValue.FromString(payload))
        elif kind == b"L":
            lease = rpc.LeaseGrantRequest.FromString(payload)
            into.lease(lease.ID, lease.TTL)
        elif kind == b"H":
            into.begin(json.loads(payload)["revision"])
        elif kind == b"E":
            return
        elif not kind:
            raise EOFError
        else:
            raise DriverError("the snapshot was made by a newer kine: it holds a record of an unknown kind")
        if number % _STEP == 0:
            yield file.tell() - at
            at = file.tell()
