"""Snapshots in etcd's format: all keys of the store at one revision, in a bbolt file.

The file's history is as after a compaction at that revision. `etcdutl` restores it to an etcd, and
`kine snapshot restore` to another database. The file is created without a name, so nothing of it remains on
disk however the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import AsyncGenerator
from typing import IO, TYPE_CHECKING

from kine.etcd.bbolt import BboltWriter, Tree
from kine.fair_queue import FairSemaphore
from kine.proto import rpc_pb2 as rpc
from kine.store.errors import BusyError, CompactedError, LeaseNotFoundError
from kine.store.value_cache import unframe

if TYPE_CHECKING:
    from kine.store.index import Entry
    from kine.store.store import Store

log = logging.getLogger(__name__)

_WAIT = 60.0  # seconds to wait for an earlier snapshot to be sent
_SPARE = 64 * 1024 * 1024  # bytes that must stay free on the disk, so that writes do not fail
_SENT = 64 * 1024
_RETRIES = 3
_MAX_TTL = 9_000_000_000  # etcd's limit
_BLOCK = 64  # keys; the size of their values is not known beforehand
_REVISION = struct.Struct(">Q1sQ")
_NUMBER = struct.Struct(">Q")
_EMPTY = (
    b"alarm", b"auth", b"authRoles", b"authUsers", b"cluster", b"members", b"members_removed",
)  # fmt: skip


class Snapshots:
    """Snapshots of a store, one at a time: each is a copy on disk until its client has read it."""

    def __init__(self, store: Store, storage_version: str) -> None:
        self._store = store
        self._storage_version = storage_version
        self._turn = FairSemaphore(1)

    async def blocks(self, client: object = None) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yields the file in blocks and then its SHA-256, as etcd does, each with the number of bytes left.

        Raises BusyError, DriverError.
        """
        try:
            async with asyncio.timeout(_WAIT):
                await self._turn.acquire(client)
        except TimeoutError:
            raise BusyError(
                f"another snapshot has been under way for {_WAIT:.0f} s, and one is made at a time;"
                " try again later"
            ) from None
        try:
            with await self._file() as file:
                left = os.fstat(file.fileno()).st_size + hashlib.sha256().digest_size
                digest = hashlib.sha256()
                file.seek(0)
                while block := file.read(_SENT):
                    digest.update(block)
                    left -= len(block)
                    yield block, left
                yield digest.digest(), 0
        except OSError as error:
            reason = error.strerror or str(error)
            if self._store.folder() is None:
                reason += "; name a writable directory with room in the server's TMPDIR"
            log.error("a snapshot could not be written: %s", reason)
            raise BusyError(f"the server cannot write the snapshot to disk: {reason}") from None
        finally:
            self._turn.release()

    async def _file(self) -> IO[bytes]:
        needed = (await self._store.size()).in_use
        file = _unnamed(self._store.folder())
        try:
            disk = os.fstatvfs(file.fileno())
            free = disk.f_bavail * disk.f_frsize
            if free < needed + min(_SPARE, needed):
                raise BusyError(
                    f"a snapshot needs {needed >> 20} MiB of disk beside the data, and {free >> 20} MiB are"
                    " free; make room, or use kine snapshot save elsewhere"
                )
            for _ in range(_RETRIES):
                try:
                    await write(self._store, file, self._storage_version)
                except CompactedError:
                    file.seek(0)
                    file.truncate()
                else:
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
        raise BusyError("compactions have overtaken the snapshot; try again later")


def _unnamed(folder: str | None) -> IO[bytes]:
    """A file without a name, in the data's directory, or in TMPDIR if there is none or it is not writable.

    A small /tmp may be in memory, so it is not the first choice.
    """
    if folder is not None:
        with contextlib.suppress(OSError):
            return tempfile.TemporaryFile(prefix="kine-snapshot-", dir=folder)
    return tempfile.TemporaryFile(prefix="kine-snapshot-")


async def write(store: Store, file: IO[bytes], storage_version: str) -> None:
    """Writes a snapshot of the store's current revision. Raises DriverError, CompactedError, OSError."""
    revision, entries = await store.everything()
    writer = BboltWriter(file)
    keys = writer.tree()
    for start in range(0, len(entries), _BLOCK):
        frames = await store.frames(entries[start : start + _BLOCK])
        await asyncio.to_thread(_add, keys, frames)
    writer.bucket(b"key", keys)
    leases = writer.tree()
    for lease_id in sorted({entry.lease for entry in entries if entry.lease}, key=_lease_key):
        # leasepb.Lease has the id in field 1 and the TTL in field 2; LeaseGrantRequest has them swapped.
        lease = rpc.LeaseGrantRequest(TTL=lease_id, ID=await _ttl(store, lease_id))
        leases.add(_lease_key(lease_id), lease.SerializeToString())
    writer.bucket(b"lease", leases)
    meta = writer.tree()
    compacted = _REVISION.pack(revision, b"_", 0)
    meta.add(b"consistent_index", _NUMBER.pack(revision))
    meta.add(b"finishedCompactRev", compacted)
    meta.add(b"scheduledCompactRev", compacted)
    meta.add(b"storageVersion", storage_version.encode())
    meta.add(b"term", _NUMBER.pack(1))
    writer.bucket(b"meta", meta)
    for name in _EMPTY:
        writer.bucket(name, writer.tree())
    await asyncio.to_thread(writer.finish)


async def _ttl(store: Store, lease_id: int) -> int:
    """The granted TTL of a lease, in seconds."""
    try:
        return store.leases.ttl_of(lease_id)
    except LeaseNotFoundError:
        pass
    try:
        return (await store.leases.find(lease_id)).ttl
    except LeaseNotFoundError:
        # Go kine wrote the key and uses the TTL as the lease id, or the lease is just being revoked.
        return lease_id if 0 < lease_id <= _MAX_TTL else 1


def _add(tree: Tree, frames: list[tuple[Entry, bytes]]) -> None:
    for entry, encoded in frames:
        tree.add(_REVISION.pack(entry.mod, b"_", 0), unframe(encoded))


def _lease_key(lease_id: int) -> bytes:
    return lease_id.to_bytes(8, "big", signed=True)
