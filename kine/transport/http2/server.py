"""The asyncio shell around `connection`: sockets, tasks and timers, and the routes' handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from kine.forms import address as parse_address
from kine.tls import server_context
from kine.transport.base import (
    HIGH_WATER,
    INTERNAL_ERROR,
    LOW_WATER,
    Call,
    Code,
    Limits,
    Routes,
    RpcError,
    Streaming,
    Tls,
    Unary,
    unknown_method,
)
from kine.transport.http2 import grpc
from kine.transport.http2.connection import Connection, Stream
from kine.transport.http2.grpc import PREFIX, Inbox

log = logging.getLogger(__name__)

_MAX_QUEUED = 64 * 1024 * 1024  # over a connection's streams; beyond, new calls wait
_BACKLOG = 1024
_HANDSHAKE_TIMEOUT = 10.0
_HOUSEKEEPING = 5.0  # seconds between looks for silent connections
_LATE = RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
_HALF = RpcError(Code.INTERNAL, "the call ended within a message")

_HTTP1_METHODS = (b"GET /", b"HEAD /")

# Serves a connection that speaks HTTP/1.1, as etcd's port does for /metrics and /health.
Http1 = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Http2Server:
    """See `kine.transport.base.Server`."""

    def __init__(
        self,
        routes: Routes,
        addresses: Sequence[str],
        tls: Tls | None,
        limits: Limits,
        http1: Http1 | None = None,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.http1 = http1
        self._addresses = addresses
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self.connections: set[Shell] = set()
        self._housekeeping: asyncio.Task[None] | None = None

    async def start(self) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        context = server_context(self._tls, ("h2", "http/1.1")) if self._tls is not None else None
        bound = []
        for text in self._addresses:
            address = parse_address(text)
            options: dict[str, Any] = {"ssl": context, "backlog": _BACKLOG}
            if context is not None:
                options["ssl_handshake_timeout"] = _HANDSHAKE_TIMEOUT
            if address.path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address.path)
                # Nobody may connect between its creation and its mode.
                mask = os.umask(0o177)
                try:
                    server = await loop.create_unix_server(lambda: Shell(self), address.path, **options)
                finally:
                    os.umask(mask)
                bound.append(text)
            else:
                server = await loop.create_server(
                    lambda: Shell(self), address.host or None, address.port, **options
                )
                port = server.sockets[0].getsockname()[1]
                bound.append(f"{text.rpartition(':')[0]}:{port}")
            self._servers.append(server)
        self._housekeeping = asyncio.create_task(self._keep_house(), name="keepalive")
        return bound

    async def stop(self, grace: float) -> None:
        for server in self._servers:
            server.close()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        for shell in tuple(self.connections):
            shell.go_away()
        ending = [shell.idle.wait() for shell in self.connections]
        if ending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*ending), grace)
        for shell in tuple(self.connections):
            shell.close()
        await asyncio.sleep(0)  # let the last bytes out, and cancelled handlers end

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING)
            for shell in tuple(self.connections):
                shell.check_alive()


class Shell(asyncio.Protocol):
    """One connection: what `connection.Application` asks for, on asyncio."""

    def __init__(self, server: Http2Server) -> None:
        self._server = server
        self._routes = server.routes
        self._limit = server.limits.max_request_bytes
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(self, server.limits)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peer = ""
        self._started = False
        self._flushing = False
        self._held: deque[tuple[Stream, Unary, bytes, int]] = deque()
        self._heard = 0.0
        self._pinged = False
        self.idle = asyncio.Event()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._peer = _peer(transport.get_extra_info("peername"))
        self._heard = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._connection.closed = True
        for stream in tuple(self._connection.streams.values()):
            self.reset(stream)
        self._connection.streams.clear()
        self._held.clear()
        self.idle.set()

    def data_received(self, data: bytes) -> None:
        if not self._started:
            self._started = True
            if self._server.http1 is not None and data.startswith(_HTTP1_METHODS):
                self._hand_over(self._server.http1, data)
                return
        self._heard = self._loop.time()
        self._pinged = False
        self._connection.receive(data, self._heard)
        self._flush()

    def eof_received(self) -> bool:
        return False  # a half-open HTTP/2 connection is of no use: close it

    def pause_writing(self) -> None:
        self._connection.paused = True
        self._transport.pause_reading()  # whoever does not read need not be heard

    def resume_writing(self) -> None:
        self._connection.paused = False
        self._transport.resume_reading()
        self._flush()

    def _hand_over(self, serve: Http1, data: bytes) -> None:
        self._server.connections.discard(self)
        reader = asyncio.StreamReader(64 * 1024)
        protocol = asyncio.StreamReaderProtocol(reader, serve)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    # ---- output

    def _flush(self) -> None:
        self._flushing = False
        connection = self._connection
        while out := connection.take():
            self._transport.write(out)
            if connection.paused:
                break
        if connection.closed:
            self._transport.close()
        if connection.going_away and not connection.streams:
            self.idle.set()

    def _flush_soon(self) -> None:
        """One write for all answers that become ready in one turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    # ---- the connection's life

    def go_away(self) -> None:
        self._connection.go_away()
        self._flush()

    def close(self) -> None:
        for stream in tuple(self._connection.streams.values()):
            if isinstance(stream.application, _Running):
                stream.application.cancel(RpcError(Code.UNAVAILABLE, "the server stops"))
        self._flush()
        self._transport.close()

    def check_alive(self) -> None:
        limits = self._server.limits
        silent = self._loop.time() - self._heard
        if self._pinged and silent > limits.keepalive_interval + limits.keepalive_timeout:
            self._transport.abort()
        elif not self._pinged and silent > limits.keepalive_interval:
            self._pinged = True
            self._connection.ping()
            self._flush()

    # ---- requests

    def request(self, stream: Stream) -> None:
        head = stream.head
        headers = head.headers
        if head.method != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            stream.application = _NotGrpc
            return
        route = self._routes.get(head.path)
        if route is None:
            self._fail(stream, unknown_method(head.path, self._routes))
        elif type(route) is Unary:
            stream.application = route
        elif isinstance(route, Streaming):
            self._stream(stream, route)

    def data(self, stream: Stream, data: bytes, ended: bool) -> None:
        application = stream.application
        if type(application) is Unary:
            # One frame with the whole message, as nearly all requests are, or the first of several.
            size = len(data)
            if ended and size >= PREFIX and int.from_bytes(data[1:PREFIX], "big") == size - PREFIX:
                if data[0] or size - PREFIX > self._limit:
                    self._unary_slowly(stream, _Collecting(application, self._inbox(stream)), data, ended)
                elif self._connection.queued > _MAX_QUEUED:
                    self._held.append((stream, application, data[PREFIX:], size))
                else:
                    self._connection.release(stream, size)
                    self._unary(stream, application, data[PREFIX:])
            else:
                stream.application = collecting = _Collecting(application, self._inbox(stream))
                self._unary_slowly(stream, collecting, data, ended)
        elif application is _NotGrpc:
            self._connection.release(stream, len(data))
            if ended:
                self._refuse(stream)
        elif type(application) is _Collecting:
            self._unary_slowly(stream, application, data, ended)
        elif type(application) is _Running and application.stream is not None:
            try:
                application.stream.feed(data, ended)
            except RpcError as error:
                application.cancel(error)
        else:
            self._connection.release(stream, len(data))  # the answer is given, the rest of no interest

    def _refuse(self, stream: Stream) -> None:
        connection = self._connection
        connection.send_head(stream, grpc.NOT_POST if stream.head.method != "POST" else grpc.NOT_GRPC)
        connection.send_data(stream, grpc.REFUSAL)
        connection.end_data(stream)

    def _inbox(self, stream: Stream) -> Inbox:
        return Inbox(self._limit, stream.head.headers.get("grpc-encoding", ""))

    def _unary_slowly(self, stream: Stream, collecting: _Collecting, data: bytes, ended: bool) -> None:
        collecting.size += len(data)
        try:
            collecting.messages += [message for message, _ in collecting.inbox.feed(data)]
            if ended and (collecting.inbox.partial or len(collecting.messages) != 1):
                raise _HALF
            if len(collecting.messages) > 1:
                raise RpcError(Code.INTERNAL, "more than one message in a unary call")
        except RpcError as error:
            self._fail(stream, error)
            return
        if ended:
            stream.application = collecting.route
            if self._connection.queued > _MAX_QUEUED:
                self._held.append((stream, collecting.route, collecting.messages[0], collecting.size))
            else:
                self._connection.release(stream, collecting.size)
                self._unary(stream, collecting.route, collecting.messages[0])

    def _call(self, stream: Stream) -> Call:
        headers = stream.head.headers
        wanted = headers.get("grpc-timeout")
        deadline = None if wanted is None else self._loop.time() + grpc.timeout(wanted)
        return Call(stream.head.path, self._peer, deadline, headers)

    def _unary(self, stream: Stream, route: Unary, message: bytes) -> None:
        try:
            call = self._call(stream)
            answer = route.handler(message, call)
        except RpcError as error:
            self._fail(stream, error)
            return
        except Exception:
            log.exception("a call failed: %s", stream.head.path)
            self._fail(stream, INTERNAL_ERROR)
            return
        if type(answer) is bytes:
            self._connection.respond(stream, grpc.HEAD, answer, grpc.OK)
            return
        running = stream.application = _Running(self, stream, None)
        running.start(self._finish(running, cast("Awaitable[bytes]", answer)), call.deadline)

    async def _finish(self, running: _Running, answer: Awaitable[bytes]) -> None:
        message = await answer
        self._connection.respond(running.http, grpc.HEAD, message, grpc.OK)

    def _stream(self, stream: Stream, route: Streaming) -> None:
        try:
            call = self._call(stream)
        except RpcError as error:
            self._fail(stream, error)
            return
        messages = GrpcStream(self, stream, self._inbox(stream))
        running = stream.application = _Running(self, stream, messages)
        running.start(self._serve(messages, route.handler(messages, call)), call.deadline)

    async def _serve(self, messages: GrpcStream, handling: Awaitable[None]) -> None:
        await handling
        messages.end()

    def fail(self, stream: Stream, error: RpcError) -> None:
        self._fail(stream, error)
        self._flush_soon()

    def finished(self) -> None:
        self._flush_soon()

    def _fail(self, stream: Stream, error: RpcError) -> None:
        block = grpc.status(error)
        self._connection.send_trailers(stream, block if stream.head_sent else grpc.HEAD + block)

    # ---- the connection's news

    def reset(self, stream: Stream) -> None:
        application = stream.application
        stream.application = None
        if type(application) is _Running:
            application.gone()

    def drained(self, stream: Stream) -> None:
        application = stream.application
        if type(application) is _Running and application.stream is not None:
            application.stream.drained()
        while self._held and self._connection.queued <= _MAX_QUEUED // 2:
            held, route, message, size = self._held.popleft()
            if not held.local_closed:
                self._connection.release(held, size)
                self._unary(held, route, message)

    # ---- used by GrpcStream

    def send(self, stream: Stream, message: bytes) -> None:
        connection = self._connection
        connection.send_head(stream, grpc.HEAD)
        prefix = b"\0" + len(message).to_bytes(4, "big")
        if len(message) < LOW_WATER:
            connection.send_data(stream, prefix + message)
        else:
            connection.send_data(stream, prefix)
            connection.send_data(stream, message)
        self._flush_soon()

    def end(self, stream: Stream) -> None:
        self._connection.send_head(stream, grpc.HEAD)
        self._connection.send_trailers(stream, grpc.OK)
        self._flush_soon()

    def release(self, stream: Stream, count: int) -> None:
        self._connection.release(stream, count)
        self._flush_soon()


class _NotGrpc:
    """Marks a stream that somebody's browser, or a test of HTTP/2, has opened."""


def _peer(name: object) -> str:
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


class _Collecting:
    """A unary request that comes in pieces."""

    __slots__ = ("inbox", "messages", "route", "size")

    def __init__(self, route: Unary, inbox: Inbox) -> None:
        self.route = route
        self.inbox = inbox
        self.messages: list[bytes] = []
        self.size = 0


class _Running:
    """A call that has a task: how it ends, whoever ends it."""

    __slots__ = ("_shell", "_task", "_timer", "_verdict", "http", "stream")

    def __init__(self, shell: Shell, http: Stream, stream: GrpcStream | None) -> None:
        self._shell = shell
        self.http = http
        self.stream = stream
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: RpcError | None = None

    def start(self, work: Any, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(work))
        if deadline is not None:
            self._timer = loop.call_at(deadline, self.cancel, _LATE)

    async def _run(self, work: Awaitable[None]) -> None:
        shell = self._shell
        try:
            await work
            shell.finished()
        except RpcError as error:
            shell.fail(self.http, error)
        except asyncio.CancelledError:
            if self._verdict is not None:
                shell.fail(self.http, self._verdict)
        except Exception:
            log.exception("a call failed: %s", self.http.head.path)
            shell.fail(self.http, INTERNAL_ERROR)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def cancel(self, verdict: RpcError) -> None:
        """The call ends with this status, whatever its handler is doing."""
        if self._task is not None and not self._task.done():
            self._verdict = verdict
            self._shell.fail(self.http, verdict)
            self._task.cancel()

    def gone(self) -> None:
        """There is nobody to answer any more."""
        if self._task is not None:
            self._task.cancel()


class GrpcStream:
    """See `kine.transport.base.Stream`."""

    __slots__ = ("_drained", "_ended", "_http", "_inbox", "_messages", "_received", "_shell")

    def __init__(self, shell: Shell, http: Stream, inbox: Inbox) -> None:
        self._shell = shell
        self._http = http
        self._inbox = inbox
        self._messages: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._received: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    def feed(self, data: bytes, ended: bool) -> None:
        messages = self._inbox.feed(data)
        self._messages += messages
        if ended:
            if self._inbox.partial:
                raise _HALF
            self._ended = True
        if self._received is not None and not self._received.done() and (messages or ended):
            self._received.set_result(None)

    async def receive(self) -> bytes | None:
        while not self._messages:
            if self._ended:
                return None
            self._received = asyncio.get_running_loop().create_future()
            await self._received
        message, size = self._messages.popleft()
        self._shell.release(self._http, size)  # only now may the client send as much again
        return message

    def send(self, message: bytes) -> None:
        self._shell.send(self._http, message)

    def end(self) -> None:
        self._shell.end(self._http)

    @property
    def full(self) -> bool:
        return self._http.queued >= HIGH_WATER

    async def drain(self) -> None:
        while self._http.queued >= LOW_WATER and not self._http.local_closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def drained(self) -> None:
        waiting = self._drained
        if waiting is not None and not waiting.done() and self._http.queued < LOW_WATER:
            waiting.set_result(None)
