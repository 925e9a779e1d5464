"""Forwarding of calls and streams: bytes, metadata and deadline to etcd; bytes and status to the client."""

from __future__ import annotations

import asyncio
import binascii
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from kine.etcd import errors
from kine.transport.base import Call, Code, MessageStream, RpcError, Streaming, Unary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kine.remote.channel import Upstream
    from kine.remote.failover import EtcdFailover

# Read-only methods, which may be retried on another endpoint after Unavailable.
READS = frozenset(
    "/" + method
    for method in (
        "etcdserverpb.KV/Range", "etcdserverpb.Lease/LeaseTimeToLive", "etcdserverpb.Lease/LeaseLeases",
        "etcdserverpb.Cluster/MemberList", "etcdserverpb.Maintenance/Status", "etcdserverpb.Maintenance/Hash",
        "etcdserverpb.Maintenance/HashKV", "etcdserverpb.Auth/AuthStatus", "etcdserverpb.Auth/UserGet",
        "etcdserverpb.Auth/UserList", "etcdserverpb.Auth/RoleGet", "etcdserverpb.Auth/RoleList",
        "v3electionpb.Election/Leader", "grpc.health.v1.Health/Check",
    )
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9_.-]+")
# Headers of the client's connection, or that grpcio writes itself: not forwarded.
_OURS = frozenset({"content-type", "te", "user-agent", "host", "connection", "content-length"})
_ETCDS = "etcdserver: "


class Forwarder:
    """Forwards calls and streams to the cluster's active endpoint."""

    def __init__(self, cluster: EtcdFailover) -> None:
        self._cluster = cluster
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def routes(self, unary: Iterable[str], streaming: Iterable[str]) -> dict[str, Unary | Streaming]:
        made: dict[str, Unary | Streaming] = {path: Unary(self.unary) for path in unary}
        made.update((path, Streaming(self.stream)) for path in streaming)
        return made

    def stop(self) -> None:
        """Ends every stream with a status after which clients reconnect."""
        self._stopping = True
        for task in tuple(self._streams):
            task.cancel()

    async def unary(self, request: bytes, call: Call) -> bytes:
        tried: list[Upstream] = []
        upstream = await self._cluster.choose()
        while True:
            try:
                answer: bytes = await upstream.unary(call.method)(
                    request, timeout=_left(call), metadata=metadata(call)
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._cluster.failed(upstream)
                    tried.append(upstream)
                    other = self._cluster.ready(but=tried) if call.method in READS else None
                    if other is not None:
                        upstream = other
                        continue
                raise rpc_error(error) from None
            else:
                return answer

    async def stream(self, stream: MessageStream, call: Call) -> None:
        if self._stopping:
            raise errors.stopped()
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            upstream = await self._cluster.choose()
            await self._carry(stream, call, upstream)
        except asyncio.CancelledError:
            if self._stopping:
                raise errors.stopped() from None
            raise
        finally:
            self._streams.discard(task)

    async def _carry(self, stream: MessageStream, call: Call, upstream: Upstream) -> None:
        there = upstream.streaming(call.method)(timeout=_left(call), metadata=metadata(call))
        asking = asyncio.create_task(_requests(stream, there))
        try:
            while (message := await there.read()) is not grpc.aio.EOF:
                stream.send(message)
                if stream.full:
                    await stream.drain()  # meanwhile nothing is read, and flow control stops etcd
            code = await there.code()
            if code is not grpc.StatusCode.OK:
                raise rpc_error_of(code, await there.details())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._cluster.failed(upstream)
            raise rpc_error(error) from None
        finally:
            asking.cancel()
            there.cancel()


async def _requests(stream: MessageStream, there: Any) -> None:
    try:
        while (message := await stream.receive()) is not None:
            await there.write(message)  # returns once etcd's flow control allows it
            del message  # free it before waiting for the next one
        await there.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the call has ended: the reading side gets its status


def _left(call: Call) -> float | None:
    """Seconds until the call's deadline; None without one."""
    return None if call.deadline is None else max(0.0, call.deadline - asyncio.get_running_loop().time())


def metadata(call: Call) -> list[tuple[str, str | bytes]]:
    """The client's own metadata (token, hasleader and any other), in grpcio's format. Raises RpcError."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in call.metadata.items():
        if name in _OURS or name.startswith((":", "grpc-")) or not _NAME.fullmatch(name):
            continue
        if name.endswith("-bin"):
            try:
                found += [(name, b64decode(part + "==")) for part in value.split(",")]
            except binascii.Error:
                raise RpcError(Code.INTERNAL, f"malformed binary metadata {name!r}") from None
        elif value.isascii() and (value.isprintable() or not value):
            found.append((name, value))
        else:
            raise RpcError(Code.INTERNAL, f"malformed metadata {name!r}")
    return found


def rpc_error(error: grpc.aio.AioRpcError) -> RpcError:
    return rpc_error_of(error.code(), error.details())


def rpc_error_of(status: grpc.StatusCode, details: str | None) -> RpcError:
    """The error for a status: etcd's own, or etcd's text for a lost connection if grpcio made the status.

    grpcio's text would show addresses, and clients match on etcd's texts.
    """
    code = Code(status.value[0])
    text = details or ""
    if code is Code.UNAVAILABLE and not text.startswith(_ETCDS):
        return RpcError(code, "etcdserver: request timed out, possibly due to connection lost")
    return RpcError(code, text)
