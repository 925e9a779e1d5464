"""The etcdserverpb.Lease service."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kine.etcd import errors
from kine.etcd.response_encoding import HeaderCache
from kine.fair_queue import FairSemaphore
from kine.proto import rpc_pb2 as rpc
from kine.store.errors import LeaseNotFoundError
from kine.store.leases import MAX_TTL
from kine.store.shared_queries import SharedQueries
from kine.store.store import Store
from kine.transport.base import Answer, Call, MessageStream, Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_BLOCK = 2_000  # leases, or keys of one lease, encoded per loop iteration
_AT_ONCE = 16  # concurrent calls that query the database
_LARGE = 64 * 1024  # bytes from which on a response waits for room


class LeaseService:
    def __init__(self, store: Store, headers: HeaderCache) -> None:
        self._store = store
        self._headers = headers
        # Concurrent requests for the same list share one encoding task and its bytes.
        self._lists = SharedQueries(self._encoded_list)
        self._keys = SharedQueries(self._encoded_keys)
        # Each call queries the database or writes: one client's calls must not delay others' writes.
        self._few = FairSemaphore(_AT_ONCE)

    def _header(self) -> bytes:
        return self._headers.at(self._store.index.revision)

    async def grant(self, request: bytes, call: Call) -> bytes:
        message = rpc.LeaseGrantRequest.FromString(request)
        if message.TTL > MAX_TTL:
            raise errors.lease_ttl_too_large()
        async with self._few.one(call.account):
            lease = await self._store.leases.grant(message.TTL, message.ID)
        return self._header() + rpc.LeaseGrantResponse(ID=lease.id, TTL=lease.ttl).SerializeToString()

    async def revoke(self, request: bytes, call: Call) -> bytes:
        lease_id = rpc.LeaseRevokeRequest.FromString(request).ID
        async with self._few.one(call.account):
            await self._store.leases.revoke(lease_id)
        return self._header()

    async def keep_alive(self, stream: MessageStream, call: Call) -> None:
        while (lease_id := _renewed(await stream.receive())) is not None:
            try:
                async with self._few.one(call.account):
                    ttl = (await self._store.leases.renew(lease_id)).ttl
            except LeaseNotFoundError:
                ttl = 0  # etcd's response for an unknown lease on this stream
            answer = rpc.LeaseKeepAliveResponse(ID=lease_id, TTL=ttl)
            stream.send(self._header() + answer.SerializeToString())

    async def time_to_live(self, request: bytes, call: Call) -> Answer:
        message = rpc.LeaseTimeToLiveRequest.FromString(request)
        leases = self._store.leases
        await self._store.refresh()
        keys: list[bytes] = []
        try:
            async with self._few.one(call.account):
                lease = await leases.find(message.ID)
        except LeaseNotFoundError:
            answer = rpc.LeaseTimeToLiveResponse(ID=message.ID, TTL=-1)
        else:
            if message.keys and lease.keys:
                keys = await self._keys.answer(message.ID)
            answer = rpc.LeaseTimeToLiveResponse(
                ID=lease.id, TTL=int(leases.remaining(lease)), grantedTTL=lease.ttl
            )
        return await self._answer(answer.SerializeToString(), keys, call)

    async def leases(self, request: bytes, call: Call) -> Answer:
        rpc.LeaseLeasesRequest.FromString(request)
        return await self._answer(b"", await self._lists.answer(None), call)

    async def _answer(self, first: bytes, shared: list[bytes], call: Call) -> Answer:
        size = sum(map(len, shared))
        if size < _LARGE:
            return b"".join((self._header(), first, *shared))
        await self._store.turns.next(call.account)  # all requests that share an encoding resume at once
        if call.room is not None:
            await call.room(size)
        return Pieces([self._header() + first, *shared])

    async def _encoded_list(self, _: None) -> list[bytes]:
        return await self._encoded(await self._store.leases.all(), _list_of)

    async def _encoded_keys(self, lease_id: int) -> list[bytes]:
        """The keys of a lease; in no order if there is more than one block, as in etcd."""
        return await self._encoded(self._store.leases.keys(lease_id), _keys_of)

    async def _encoded(self, items: Sequence[T], encode: Callable[[Sequence[T]], bytes]) -> list[bytes]:
        """Encodes items as response fields, in blocks to be concatenated."""
        blocks = []
        for start in range(0, len(items), _BLOCK):
            await self._store.turns.next(self)
            blocks.append(encode(items[start : start + _BLOCK]))
        return blocks


def _list_of(leases: Sequence[int]) -> bytes:
    return rpc.LeaseLeasesResponse(leases=[rpc.LeaseStatus(ID=each) for each in leases]).SerializeToString()


def _keys_of(keys: Sequence[bytes]) -> bytes:
    return rpc.LeaseTimeToLiveResponse(keys=sorted(keys)).SerializeToString()


def _renewed(request: bytes | None) -> int | None:
    """A separate function, so that no variable keeps a message alive while the next is awaited."""
    return None if request is None else int(rpc.LeaseKeepAliveRequest.FromString(request).ID)
