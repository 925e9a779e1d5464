"""The server's `Backend` for a real etcd: routes, readiness, version and shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from kine.drivers.base import PATIENCE, UnavailableError
from kine.drivers.wait_for_database import until_open
from kine.etcd import etcd_versions
from kine.observe import metrics
from kine.proto import rpc_pb2 as rpc
from kine.remote.endpoint import parse
from kine.remote.failover import EtcdFailover
from kine.remote.forwarding import Forwarder
from kine.transport.base import Call, Routes, RpcError

if TYPE_CHECKING:
    from kine.drivers.base import Options

_ADVICE = "; check that it runs, and the endpoint's hosts and ports"
_PROBE_TIMEOUT = 3.0

_RANGE = "/etcdserverpb.KV/Range"
_STATUS = "/etcdserverpb.Maintenance/Status"
# The request of `etcdctl endpoint health`: a linearizable read, which needs a leader and a quorum.
_PROBE = rpc.RangeRequest(key=b"health", count_only=True).SerializeToString()
# With these, etcd does not serve. Any other status proves that it does, such as a missing login.
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)

_STREAMING = (
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
# Unary methods outside etcdserverpb that every etcd serves (server/etcdserver/api/v3lock, v3election; gRPC's
# health).
_BESIDE = (
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Resign",
    "/grpc.health.v1.Health/Check",
)


def connect(endpoint: str, options: Options) -> EtcdBackend:
    """The backend of an endpoint, not yet connected. Raises ValueError, which never repeats the endpoint."""
    return EtcdBackend(EtcdFailover(parse(endpoint), options))


def methods() -> list[str]:
    """Every unary method that is forwarded."""
    services = rpc.DESCRIPTOR.services_by_name.values()
    own = [f"/{service.full_name}/{name}" for service in services for name in service.methods_by_name]
    return [path for path in (*own, *_BESIDE) if path not in _STREAMING]


class EtcdBackend:
    """Implements `kine.server.Backend`."""

    def __init__(self, cluster: EtcdFailover) -> None:
        self._cluster = cluster
        self._forwarder = Forwarder(cluster)
        self.on_wait: Callable[[str], None] = lambda why: None
        self.routes: Routes = self._forwarder.routes(methods(), _STREAMING)

    async def open(self, patience: float = PATIENCE, name: str = "etcd", advice: str = _ADVICE) -> None:
        """Connects, and waits until etcd answers. Raises DriverError, with advice."""
        await self._cluster.open()
        await until_open(
            self._answers,
            UnavailableError,
            name,
            advice,
            patience=patience,
            on_wait=lambda why: self.on_wait(why),
        )
        metrics.register_gauge("kine_revision", self._revision)
        metrics.register_gauge("kine_db_size_bytes", self._size)

    async def _answers(self) -> None:
        """Raises UnavailableError, with each endpoint's reason, if none of them answers."""
        reasons = []
        for upstream in self._cluster.upstreams:
            try:
                await upstream.unary(_RANGE)(_PROBE, timeout=_PROBE_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NO_ANSWER:
                    return
                reasons.append(upstream.why_not(error.details() or error.code().name))
            else:
                return
        raise UnavailableError("; ".join(reasons))

    async def ready(self) -> None:
        """Raises UnavailableError if etcd does not answer a linearizable read."""
        call = Call(_RANGE, deadline=asyncio.get_running_loop().time() + _PROBE_TIMEOUT)
        try:
            await self._forwarder.unary(_PROBE, call)
        except RpcError as error:
            if grpc.StatusCode[error.code.name] in _NO_ANSWER:
                raise UnavailableError(f"etcd does not answer: {error.message}") from None

    def stop(self) -> None:
        self._forwarder.stop()

    async def close(self) -> None:
        await self._cluster.close()

    def about(self) -> dict[str, object]:
        return {"etcd": ",".join(str(upstream.endpoint) for upstream in self._cluster.upstreams)}

    async def version(self) -> bytes:
        """The response of etcd's /version, from the members that can be reached. Raises UnavailableError."""
        try:
            server = await self._status()
        except RpcError as error:
            raise UnavailableError(f"etcd does not tell its version: {error.message}") from None
        asked = (upstream.unary(_STATUS)(b"", timeout=_PROBE_TIMEOUT) for upstream in self._cluster.upstreams)
        told = await asyncio.gather(*asked, return_exceptions=True)
        members = [rpc.StatusResponse.FromString(one).version for one in told if isinstance(one, bytes)]
        cluster = etcd_versions.cluster_version(etcd_versions.oldest([server.version, *members]))
        return etcd_versions.page(server.version, cluster, server.storageVersion)

    async def _status(self) -> rpc.StatusResponse:
        answer = await self._forwarder.unary(b"", Call(_STATUS))
        return rpc.StatusResponse.FromString(answer)

    async def _revision(self) -> float:
        return (await self._status()).header.revision

    async def _size(self) -> float:
        return (await self._status()).dbSize
