"""etcdserverpb.Lease."""

from __future__ import annotations

from kine.etcd import errors
from kine.etcd.wire import Headers
from kine.proto import rpc_pb2 as rpc
from kine.store.expiry import MAX_TTL
from kine.store.ops import LeaseNotFoundError
from kine.store.store import Store
from kine.transport.base import Call, Stream


class Lease:
    def __init__(self, store: Store, headers: Headers) -> None:
        self._store = store
        self._headers = headers

    def _header(self) -> bytes:
        return self._headers.at(self._store.index.revision)

    async def grant(self, request: bytes, call: Call) -> bytes:
        message = rpc.LeaseGrantRequest.FromString(request)
        if message.TTL > MAX_TTL:
            raise errors.lease_ttl_too_large()
        lease = await self._store.leases.grant(message.TTL, message.ID)
        return self._header() + rpc.LeaseGrantResponse(ID=lease.id, TTL=lease.ttl).SerializeToString()

    async def revoke(self, request: bytes, call: Call) -> bytes:
        await self._store.leases.revoke(rpc.LeaseRevokeRequest.FromString(request).ID)
        return self._header()

    async def keep_alive(self, stream: Stream, call: Call) -> None:
        while (request := await stream.receive()) is not None:
            lease_id = rpc.LeaseKeepAliveRequest.FromString(request).ID
            try:
                ttl = (await self._store.leases.renew(lease_id)).ttl
            except LeaseNotFoundError:
                ttl = 0  # that is how etcd says it on this stream
            answer = rpc.LeaseKeepAliveResponse(ID=lease_id, TTL=ttl)
            stream.send(self._header() + answer.SerializeToString())

    async def time_to_live(self, request: bytes, call: Call) -> bytes:
        message = rpc.LeaseTimeToLiveRequest.FromString(request)
        leases = self._store.leases
        await self._store.refresh()
        try:
            lease = await leases.find(message.ID)
        except LeaseNotFoundError:
            answer = rpc.LeaseTimeToLiveResponse(ID=message.ID, TTL=-1)
        else:
            answer = rpc.LeaseTimeToLiveResponse(
                ID=lease.id,
                TTL=int(leases.remaining(lease)),
                grantedTTL=lease.ttl,
                keys=sorted(lease.keys) if message.keys else [],
            )
        return self._header() + answer.SerializeToString()

    async def leases(self, request: bytes, call: Call) -> bytes:
        rpc.LeaseLeasesRequest.FromString(request)
        statuses = [rpc.LeaseStatus(ID=lease_id) for lease_id in await self._store.leases.all()]
        return self._header() + rpc.LeaseLeasesResponse(leases=statuses).SerializeToString()
