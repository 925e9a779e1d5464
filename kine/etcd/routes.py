"""The routing table of the gRPC API: a handler for every method, by its path."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable
from dataclasses import dataclass

from kine.etcd import errors
from kine.etcd.auth import AuthService
from kine.etcd.cluster import ClusterService
from kine.etcd.health_reflection import HealthService, ReflectionService
from kine.etcd.kv import KvService
from kine.etcd.lease import LeaseService
from kine.etcd.maintenance import MaintenanceService
from kine.etcd.response_encoding import HeaderCache
from kine.etcd.watch import WatchService
from kine.proto import rpc_pb2 as rpc
from kine.store.store import Store
from kine.transport.base import (
    Answer,
    Call,
    MessageStream,
    Pieces,
    Routes,
    StreamHandler,
    Streaming,
    Unary,
    UnaryHandler,
)

_HEALTH = "grpc.health.v1.Health"
_REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_NO_RAFT = "there is no Raft group to change; instances share one database"


@dataclass(frozen=True, slots=True)
class Identity:
    """The cluster id, member and version that this server reports to clients."""

    cluster_id: int
    member_id: int
    name: str
    version: str  # the etcd version reported to clients
    scheme: str  # of the client URLs
    url: str = ""  # client URL; empty: the host that the client has used


@dataclass(frozen=True, slots=True)
class Services:
    routes: Routes
    watch: WatchService
    health: HealthService

    def stop(self) -> None:
        self.health.stop()
        self.watch.stop()


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on requests."""

    request_bytes: int
    txn_answer_bytes: int
    watches: int  # per connection


def services(store: Store, identity: Identity, progress_interval: float, bounds: Bounds) -> Services:
    headers = HeaderCache(identity.cluster_id, identity.member_id)
    kv = KvService(store, headers, bounds.request_bytes, bounds.txn_answer_bytes)
    watch = WatchService(store, headers, progress_interval, bounds.request_bytes, bounds.watches)
    lease = LeaseService(store, headers)
    maintenance = MaintenanceService(store, headers, identity.version)
    cluster = ClusterService(store, headers, identity.scheme, identity.name, identity.url)
    described = [rpc.DESCRIPTOR.services_by_name[name].full_name for name in rpc.DESCRIPTOR.services_by_name]
    health = HealthService(described)
    reflection = ReflectionService([*described, _HEALTH, *_REFLECTION[1:]])
    routes: dict[str, Unary | Streaming] = {}
    for name in rpc.DESCRIPTOR.services_by_name:
        service = rpc.DESCRIPTOR.services_by_name[name]
        for method in service.methods_by_name:
            routes[f"/{service.full_name}/{method}"] = Unary(_refusing(method, _NO_RAFT))
    unary = {
        "KV/Range": kv.range,
        "KV/Put": kv.put,
        "KV/DeleteRange": kv.delete_range,
        "KV/Txn": kv.txn,
        "KV/Compact": kv.compact,
        "Lease/LeaseGrant": lease.grant,
        "Lease/LeaseRevoke": lease.revoke,
        "Lease/LeaseTimeToLive": lease.time_to_live,
        "Lease/LeaseLeases": lease.leases,
        "Cluster/MemberList": cluster.member_list,
        "Maintenance/Alarm": maintenance.alarm,
        "Maintenance/Status": maintenance.status,
        "Maintenance/Defragment": maintenance.defragment,
        "Maintenance/Hash": maintenance.hash,
        "Maintenance/HashKV": maintenance.hash_kv,
        **{f"Auth/{name}": handler for name, handler in AuthService(store, headers).handlers().items()},
    }
    streaming = {
        "KV/RangeStream": kv.range_stream,
        "Watch/Watch": watch.watch,
        "Lease/LeaseKeepAlive": lease.keep_alive,
        "Maintenance/Snapshot": maintenance.snapshot,
    }
    routes.update((f"/etcdserverpb.{path}", Unary(_translating(handler))) for path, handler in unary.items())
    routes.update(
        (f"/etcdserverpb.{path}", Streaming(_stream_translating(handler)))
        for path, handler in streaming.items()
    )
    routes[f"/{_HEALTH}/Check"] = Unary(_translating(health.check))
    routes[f"/{_HEALTH}/Watch"] = Streaming(_stream_translating(health.watch))
    for service_name in _REFLECTION:
        routes[f"/{service_name}/ServerReflectionInfo"] = Streaming(_stream_translating(reflection.info))
    return Services(routes, watch, health)


def _translating(handler: UnaryHandler) -> UnaryHandler:
    """Wraps a handler to translate errors of the store and its drivers to etcd's."""

    def call(request: bytes, context: Call) -> Answer | Awaitable[Answer]:
        try:
            answer = handler(request, context)
        except errors.KNOWN as error:
            raise errors.rpc_error(error) from None
        # A future's error is translated already: wrapping it in a coroutine costs 2 us.
        if type(answer) is bytes or type(answer) is Pieces or isinstance(answer, Future):
            return answer
        return _later(answer)  # type: ignore[arg-type]  # type() does not narrow the union

    return call


async def _later(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except errors.KNOWN as error:
        raise errors.rpc_error(error) from None


def _stream_translating(handler: StreamHandler) -> StreamHandler:
    async def serve(stream: MessageStream, call: Call) -> None:
        try:
            await handler(stream, call)
        except errors.KNOWN as error:
            raise errors.rpc_error(error) from None

    return serve


def _refusing(method: str, why: str) -> UnaryHandler:
    def refuse(request: bytes, call: Call) -> bytes:
        raise errors.unsupported(method, why)

    return refuse
