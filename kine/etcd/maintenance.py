"""etcdserverpb.Maintenance."""

from __future__ import annotations

import asyncio
import hashlib
import zlib

from kine.etcd import errors
from kine.etcd.proto import rpc_pb2 as rpc
from kine.etcd.wire import Headers
from kine.store.ops import Range, RangeResult
from kine.store.store import Store
from kine.transport.base import Call, Stream

_STORAGE_VERSION = "3.6.0"
_HASH_BLOCK = 1000  # keys


class Maintenance:
    def __init__(self, store: Store, headers: Headers, version: str) -> None:
        self._store = store
        self._headers = headers
        self._version = version

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
            storageVersion=_STORAGE_VERSION,
            errors=[f"memberID:{member} alarm:NOSPACE "] if self._store.no_space else [],
        )
        return self._header() + answer.SerializeToString()

    async def alarm(self, request: bytes, call: Call) -> bytes:
        message = rpc.AlarmRequest.FromString(request)
        if message.action == rpc.AlarmRequest.ACTIVATE:
            raise errors.unsupported("activating an alarm", "alarms follow the database's own state")
        if message.action == rpc.AlarmRequest.DEACTIVATE:
            self._store.no_space = False  # the next write finds out anew
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
        value = await self._hash(self._store.index.revision)
        return self._header() + rpc.HashResponse(hash=value).SerializeToString()

    async def hash_kv(self, request: bytes, call: Call) -> bytes:
        """A checksum of every key-value as of a revision: the same on every instance and backend."""
        await self._store.refresh()
        index = self._store.index
        revision = rpc.HashKVRequest.FromString(request).revision or index.revision
        value = await self._hash(revision)
        answer = rpc.HashKVResponse(
            hash=value, compact_revision=index.compact_revision, hash_revision=revision
        )
        return self._header() + answer.SerializeToString()

    async def _hash(self, revision: int) -> int:
        checksum = 0
        key = b"\0"
        while True:
            result = self._store.range(Range(key, b"", _HASH_BLOCK, revision, serializable=True))
            block = result if isinstance(result, RangeResult) else await result
            for encoded in block.frames:
                checksum = zlib.crc32(encoded, checksum)
            if not block.more:
                return checksum
            key = _key_of(block.frames[-1]) + b"\0"
            await asyncio.sleep(0)

    async def snapshot(self, stream: Stream, call: Call) -> None:
        rpc.SnapshotRequest.FromString(await stream.receive() or b"")
        blocks = self._store.snapshot()
        if blocks is None:
            raise errors.unsupported("a snapshot", "this backend keeps its own; use the database's tools")
        digest = hashlib.sha256()
        async for block in blocks:
            digest.update(block)
            self._send_blob(stream, block)
            if stream.full:
                await stream.drain()
        self._send_blob(stream, digest.digest())  # etcd ends its snapshots so, and etcdctl looks for it

    def _send_blob(self, stream: Stream, blob: bytes) -> None:
        answer = rpc.SnapshotResponse(blob=blob, version=self._version)
        stream.send(self._header() + answer.SerializeToString())


def _key_of(encoded: bytes) -> bytes:
    return rpc.RangeResponse.FromString(encoded).kvs[-1].key
