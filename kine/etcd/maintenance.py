"""The etcdserverpb.Maintenance service."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import aclosing

from kine.etcd import errors
from kine.etcd.etcd_versions import storage_version
from kine.etcd.response_encoding import HeaderCache
from kine.etcd.snapshot import Snapshots
from kine.fair_queue import FairSemaphore
from kine.proto import rpc_pb2 as rpc
from kine.store.operations import Range, RangeResult
from kine.store.store import Store
from kine.transport.base import Call, MessageStream

_HASH_LEAST, _HASH_MOST = 8, 1024  # keys read at once
_HASH_BYTES = 1024 * 1024
_STALLED = 60.0  # seconds for a snapshot's client to read the queued data, three quarters of a MiB


class MaintenanceService:
    def __init__(self, store: Store, headers: HeaderCache, version: str) -> None:
        self._store = store
        self._headers = headers
        self._version = version
        self._hashing = FairSemaphore(1)
        self._hashed = ((0, -1), 0)  # the last checksum: revision and era, then the checksum
        self._storage_version = storage_version(version)
        self._snapshots = Snapshots(store, self._storage_version)

    def _header(self) -> bytes:
        return self._headers.at(self._store.index.revision)

    async def status(self, request: bytes, call: Call) -> bytes:
        rpc.StatusRequest.FromString(request)
        size = await self._store.size()
        revision = self._store.index.revision
        member = self._headers.member_id
        answer = rpc.StatusResponse(
            version=self._version,
            dbSize=size.allocated,
            dbSizeInUse=size.in_use,
            leader=member,
            raftIndex=revision,
            raftAppliedIndex=revision,
            raftTerm=self._headers.term,
            storageVersion=self._storage_version,
            errors=[f"memberID:{member} alarm:NOSPACE "] if self._store.no_space else [],
        )
        return self._header() + answer.SerializeToString()

    async def alarm(self, request: bytes, call: Call) -> bytes:
        message = rpc.AlarmRequest.FromString(request)
        if message.action == rpc.AlarmRequest.ACTIVATE:
            raise errors.unsupported("activating an alarm", "alarms follow the database's own state")
        if message.action == rpc.AlarmRequest.DEACTIVATE:
            self._store.forget_no_space()
        alarms = []
        if self._store.no_space and message.alarm in (rpc.NONE, rpc.NOSPACE):
            alarms.append(rpc.AlarmMember(memberID=self._headers.member_id, alarm=rpc.NOSPACE))
        return self._header() + rpc.AlarmResponse(alarms=alarms).SerializeToString()

    async def defragment(self, request: bytes, call: Call) -> bytes:
        rpc.DefragmentRequest.FromString(request)
        await self._store.defragment()
        return self._header()

    async def hash(self, request: bytes, call: Call) -> bytes:
        rpc.HashRequest.FromString(request)
        await self._store.refresh()
        value = await self._hash(self._store.index.revision, call)
        return self._header() + rpc.HashResponse(hash=value).SerializeToString()

    async def hash_kv(self, request: bytes, call: Call) -> bytes:
        """A checksum of all key-values at a revision: the same on every instance and backend."""
        await self._store.refresh(past=True)
        index = self._store.index
        revision = rpc.HashKVRequest.FromString(request).revision or index.revision
        value = await self._hash(revision, call)
        answer = rpc.HashKVResponse(
            hash=value, compact_revision=index.compact_revision, hash_revision=revision
        )
        return self._header() + answer.SerializeToString()

    async def _hash(self, revision: int, call: Call) -> int:
        """Computes one checksum at a time, as each reads the whole database.

        Requests that wait for the same revision share the result.
        """
        async with self._hashing.one(call.account):
            index, known = self._store.index, (revision, self._store.lists.era)
            if self._hashed[0] != known or revision < index.compact_revision:
                self._hashed = known, await self._checksum(revision)
            return self._hashed[1]

    async def _checksum(self, revision: int) -> int:
        checksum = 0
        key, most = b"\0", _HASH_LEAST
        while True:
            result = self._store.range(Range(key, b"", most, revision, serializable=True))
            block = result if isinstance(result, RangeResult) else await result
            size = 0
            for encoded in block.frames:
                checksum = zlib.crc32(encoded, checksum)
                size += len(encoded)
            if not block.more:
                return checksum
            key = _key_of(block.frames[-1]) + b"\0"
            # Adapts the number of keys, so that blocks of large and of small values take similar memory.
            most = min(_HASH_MOST, most * 2) if size < _HASH_BYTES else max(_HASH_LEAST, most // 2)
            await asyncio.sleep(0)

    async def snapshot(self, stream: MessageStream, call: Call) -> None:
        rpc.SnapshotRequest.FromString(await stream.receive() or b"")
        stream.release_received()
        async with aclosing(self._snapshots.blocks(call.account)) as blocks:
            async for block, remaining in blocks:
                answer = rpc.SnapshotResponse(
                    blob=block, remaining_bytes=remaining, version=self._storage_version
                )
                stream.send(self._header() + answer.SerializeToString())
                if stream.full:
                    await _drained(stream)


async def _drained(stream: MessageStream) -> None:
    """Fails if the client stops reading: it would keep a copy of the database and block other snapshots."""
    try:
        async with asyncio.timeout(_STALLED):
            await stream.drain()
    except TimeoutError:
        raise errors.snapshot_stalled(_STALLED) from None


def _key_of(encoded: bytes) -> bytes:
    return rpc.RangeResponse.FromString(encoded).kvs[-1].key
