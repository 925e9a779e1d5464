"""The gRPC health checking and server reflection services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as health

from kine.transport.base import Call, Code, MessageStream, RpcError


class HealthService:
    """grpc.health.v1.Health: SERVING until `stop` is called."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return None
        kinds = health.HealthCheckResponse
        return kinds(status=kinds.NOT_SERVING if self._stopping.is_set() else kinds.SERVING)

    def check(self, request: bytes, call: Call) -> bytes:
        status = self._status(health.HealthCheckRequest.FromString(request).service)
        if status is None:
            raise RpcError(Code.NOT_FOUND, "unknown service")
        return bytes(status.SerializeToString())

    async def watch(self, stream: MessageStream, call: Call) -> None:
        known = self._known(await stream.receive() or b"")
        stream.release_received()
        stream.send(self._told(known))
        await self._stopping.wait()
        stream.send(self._told(known))

    def _known(self, request: bytes) -> bool:
        """A separate method, so that no variable keeps the request alive while `watch` waits."""
        return health.HealthCheckRequest.FromString(request).service in self._services

    def _told(self, known: bool) -> bytes:
        kinds = health.HealthCheckResponse
        status = self._status("") if known else kinds(status=kinds.SERVICE_UNKNOWN)
        return bytes(status.SerializeToString())


class ReflectionService:
    """grpc.reflection.v1 and v1alpha, which differ only in the package name."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(services)

    async def info(self, stream: MessageStream, call: Call) -> None:
        # Imported here, as it loads grpcio: 13 MB that the server otherwise does without.
        from grpc_reflection.v1alpha import reflection, reflection_pb2

        servicer: Any = reflection.ReflectionServicer(self._services)
        read = reflection_pb2.ServerReflectionRequest.FromString
        while _described(servicer, read, await stream.receive(), stream):
            pass


def _described(
    servicer: Any, read: Callable[[bytes], Any], request: bytes | None, stream: MessageStream
) -> bool:
    """Answers one request; False at the end of the stream.

    A separate function, so that no variable keeps a message alive while the next is awaited.
    """
    if request is None:
        return False
    for answer in servicer.ServerReflectionInfo(iter((read(request),)), None):
        stream.send(answer.SerializeToString())
    return True
