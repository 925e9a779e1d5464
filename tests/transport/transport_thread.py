"""Transport in a thread with its own event loop, so that tests may block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from kine.flag_values import address
from kine.transport.base import Limits
from kine.transport.grpcio_server import GrpcServer
from kine.transport.http2 import Http2Server
from tests.transport.sample_routes import Handlers, Seen

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from kine.tls import Tls
    from kine.transport.base import Server

TRANSPORTS = {
    "http2": (Http2Server, uvloop.new_event_loop),
    "http2-asyncio": (Http2Server, asyncio.new_event_loop),
    "grpcio": (GrpcServer, uvloop.new_event_loop),
}
WAIT = 60.0  # seconds a test waits for what must happen


class Served:
    """A running server of the test routes."""

    def __init__(
        self,
        transport: str,
        addresses: Sequence[str] = ("127.0.0.1:0",),
        tls: Tls | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Raises what the server's `start` raises."""
        make, new_loop = TRANSPORTS[transport]
        self.seen = Seen()
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=transport, daemon=True)
        self._thread.start()
        routes = Handlers(self.seen).routes()
        try:
            self.server: Server = make(routes, [address(one) for one in addresses], tls, limits or Limits())
            self.addresses = [str(one) for one in self.run(self.server.start())]
        except BaseException:
            self._end_loop()
            raise

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def endpoint(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    def stop(self, grace: float = 0) -> None:
        self.run(self.server.stop(grace))

    def close(self) -> None:
        if not self._loop.is_closed():
            self.stop()
            self._end_loop()

    def _end_loop(self) -> None:
        # Else the garbage collector finds what a library left behind in the middle of another test.
        with contextlib.suppress(TimeoutError):
            self.run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()


async def _end_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=5)


@contextmanager
def served(transport: str, **options: Any) -> Iterator[Served]:
    running = Served(transport, **options)
    try:
        yield running
    finally:
        running.close()


class Channel:
    """grpcio's client with messages as bytes."""

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None = None, **options: Any
    ) -> None:
        target = address.replace("unix://", "unix:")
        chosen = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
            *((f"grpc.{name}", value) for name, value in options.items()),
        ]
        if credentials is None:
            self.grpc = grpc.insecure_channel(target, chosen)
        else:
            self.grpc = grpc.secure_channel(target, credentials, chosen)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.grpc.close()

    def unary(self, method: str, request: bytes = b"", timeout: float | None = WAIT, **options: Any) -> bytes:
        return self.grpc.unary_unary(f"/test.Echo/{method}")(request, timeout=timeout, **options)

    def begin(self, method: str, request: bytes = b"", timeout: float | None = WAIT) -> Any:
        """Starts a unary call and returns its future."""
        return self.grpc.unary_unary(f"/test.Echo/{method}").future(request, timeout=timeout)

    def server_stream(
        self, method: str, request: bytes = b"", timeout: float | None = WAIT, **options: Any
    ) -> Any:
        return self.grpc.unary_stream(f"/test.Stream/{method}")(request, timeout=timeout, **options)

    def stream(self, method: str, requests: Any, timeout: float | None = WAIT) -> Any:
        return self.grpc.stream_stream(f"/test.Stream/{method}")(requests, timeout=timeout)
