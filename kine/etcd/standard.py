"""The services every gRPC server is expected to have: health checking and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as health

from kine.transport.base import Call, Code, RpcError, Stream


class Health:
    """grpc.health.v1.Health. Serving, until it stops."""

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

    async def watch(self, stream: Stream, call: Call) -> None:
        service = health.HealthCheckRequest.FromString(await stream.receive() or b"").service
        unknown = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVICE_UNKNOWN)
        stream.send((self._status(service) or unknown).SerializeToString())
        await self._stopping.wait()
        stream.send((self._status(service) or unknown).SerializeToString())


class Reflection:
    """grpc.reflection.v1 and v1alpha, which differ in their package's name only."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(services)

    async def info(self, stream: Stream, call: Call) -> None:
        # Here, as it loads grpcio, 13 MB that a server does without.
        from grpc_reflection.v1alpha import reflection, reflection_pb2

        servicer: Any = reflection.ReflectionServicer(self._services)
        while (request := await stream.receive()) is not None:
            message = reflection_pb2.ServerReflectionRequest.FromString(request)
            for answer in servicer.ServerReflectionInfo(iter((message,)), None):
                stream.send(answer.SerializeToString())
