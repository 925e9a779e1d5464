"""The grpcio transport: grpcio's asyncio server, the reference that the HTTP/2 transport is measured against.

Messages pass as bytes: no serializer is registered, so grpcio delivers them as they came off the wire.
"""

from __future__ import annotations

import asyncio
import logging
import os
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from kine import tls as tls_files
from kine.address import Address
from kine.fair_queue import FairTurns
from kine.observe.logging import fields
from kine.tls import Tls
from kine.transport.acceptor import RateLimitedWarning
from kine.transport.base import (
    HIGH_WATER,
    INTERNAL_ERROR,
    LOW_WATER,
    SMALL,
    Call,
    Limits,
    Pieces,
    Routes,
    RpcError,
    Streaming,
    Unary,
    UnaryHandler,
    too_much_kept,
    unknown_method,
)
from kine.transport.byte_budget import PIECE, ByteBudget
from kine.transport.grpcio_peers import GrpcioPeer, GrpcioPeers, crowd
from kine.transport.listen_sockets import clear_stale_socket, remove_socket

log = logging.getLogger(__name__)

# grpcio logs a line for each client that disconnects while a call is being answered.
logging.getLogger("grpc._cython.cygrpc").addFilter(lambda line: "ExecuteBatchError" not in line.getMessage())

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Handler = Callable[[Any, _Context], Awaitable[Any]]
_LOOK = 1.0  # seconds between checks of the connections
_OFTEN = "/etcdserverpb.KV/"  # methods with a queue each; more such queues would make every call dearer
_WAITING = 16_384  # calls not begun, over all connections: each takes 16 KiB
_STREAMS = 1_000  # per connection: grpcio starts calls in order of arrival, whichever client they are from
_UNREAD = 16 * 1024  # bytes buffered for each call that is not read yet
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """Implements `kine.transport.base.Server`."""

    def __init__(self, routes: Routes, addresses: Sequence[Address], tls: Tls | None, limits: Limits) -> None:
        self._routes = routes
        self._addresses = addresses
        self._tls = tls
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self.budget = ByteBudget(limits.max_queued_bytes)
        self._clients = GrpcioPeers(self.budget)
        self._housekeeping: asyncio.Task[None] | None = None
        self._ports: frozenset[int] = frozenset()
        self._crowded = RateLimitedWarning()
        self.connected = self.turned_away = 0

    async def start(self) -> Sequence[Address]:
        server = grpc.aio.server(options=_options(self._limits))
        routed = _Routed(self._routes, self._clients, self._limits.max_request_bytes)
        server.add_generic_rpc_handlers((routed,))
        # Calls wait in one queue for each registered method, and in one queue for all others. So a client
        # that opens thousands of streams does not delay the reads and writes of others.
        for path, route in self._routes.items():
            if isinstance(route, Streaming) or path.startswith(_OFTEN):
                service, _, method = path.removeprefix("/").rpartition("/")
                server.add_registered_method_handlers(service, {method: routed.handlers[path]})
        credentials = None if self._tls is None else _credentials(self._tls)
        served = [_bind(server, address, credentials) for address in self._addresses]
        self._ports = frozenset(address.port for address in served if not address.path)
        await server.start()
        self._server = server
        self._housekeeping = asyncio.create_task(self._keep_house(), name="clients")
        return served

    async def _keep_house(self) -> None:
        patience = self._limits.drain_timeout
        while True:
            await asyncio.sleep(min(_LOOK, patience / 4))
            most = self._limits.max_connections
            self.connected, ended = await asyncio.to_thread(crowd, self._ports, self._clients.peers, most)
            if ended:
                self.turned_away += ended
                self._crowded.warn("--max-connections are open", connections=most, ended=ended)
            self._clients.look()
            self.budget.cut_off_stalled(asyncio.get_running_loop().time(), patience)

    async def stop(self, grace: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        await server.stop(grace)
        for address in self._addresses:
            if address.path:
                remove_socket(address.path)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # By default grpcio cancels some waiting calls as soon as there are a thousand, and all that have
        # waited for 30 s, including calls of clients other than the one that sent the thousand.
        ("grpc.server.max_pending_requests", _WAITING),
        ("grpc.server.max_pending_requests_hard_limit", _WAITING),
        ("grpc.server_max_unrequested_time_in_server", 86_400),
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it silently
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", min(limits.max_concurrent_streams, _STREAMS)),
        # Limits what a client may send before its call starts; with the bandwidth probe, grpcio would buffer
        # more on faster connections.
        ("grpc.http2.lookahead_bytes", _UNREAD),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake_timeout * 1000)),  # TLS, and HTTP/2's start
        ("grpc.keepalive_time_ms", int(limits.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.keepalive_min_interval * 1000)),
    ]


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow the files: see `kine.tls.server_context`. Raises OSError, ssl.SSLError."""
    stamps, unusable = tls_files.stamps(tls), tls_files.Stamps()

    def renewed() -> Any:
        """Called by grpcio at each handshake, in a thread of its own; None keeps the current certificates."""
        nonlocal stamps, unusable
        found = tls_files.stamps(tls)
        if found == stamps:
            return None
        try:
            certificates = _certificates(tls)
        except (OSError, ValueError) as error:
            if found != unusable:
                unusable = found
                tls_files.tell_unusable(tls, error)
            return None
        stamps = found
        log.info("certificate renewed", extra=fields(file=tls.cert_file))
        return certificates

    return grpc.dynamic_ssl_server_credentials(
        _certificates(tls), renewed, require_client_authentication=bool(tls.client_ca_file)
    )


def _certificates(tls: Tls) -> grpc.ServerCertificateConfiguration:
    tls_files.fixed_context(tls)  # validates the files now; grpcio does so only when a client connects
    pair = (_read(tls.key_file), _read(tls.cert_file))
    return grpc.ssl_server_certificate_configuration(
        [pair], root_certificates=_read(tls.client_ca_file) if tls.client_ca_file else None
    )


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _bind(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None) -> Address:
    """Raises OSError when the address cannot be bound."""
    mask = None
    if address.path:
        clear_stale_socket(address.path)
        target = f"unix:{address.path}"
        mask = os.umask(0o177)  # grpcio makes the file itself: this is what gives it mode 0600
    else:
        target = str(address) if address.host else f"[::]:{address.port}"
    try:
        if credentials is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
    finally:
        if mask is not None:
            os.umask(mask)
    return address.at(port)


class _Routed(grpc.GenericRpcHandler):
    """Finds the handler by path, as generated code would by service and method."""

    def __init__(self, routes: Routes, clients: GrpcioPeers, most: int) -> None:
        turns = self._turns = FairTurns()
        self._clients = clients
        self.handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.stream_stream_rpc_method_handler(
                _unary(path, route.handler, clients, turns, most)
                if isinstance(route, Unary)
                else _streaming(path, route.handler, clients, turns)
            )
            for path, route in routes.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        known = self.handlers.get(details.method)
        if known is not None:
            return known
        error = unknown_method(details.method, self.handlers)

        async def refuse(_: object, context: _Context) -> None:
            client = self._clients.begin(context.peer())
            client.count()
            try:
                await self._turns.next(client)
                await _abort(context, error)
            finally:
                self._clients.end(client)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _unary(path: str, handler: UnaryHandler, clients: GrpcioPeers, turns: FairTurns, most: int) -> _Handler:
    """Serves a unary method as a stream, so that the request is read only when it is the client's turn.

    For a unary call grpcio would read the request before it reports which client it is from.
    """

    async def answer(_: object, context: _Context) -> None:
        client = clients.begin(context.peer())
        kept = client.count()
        account = client.account
        held = 0  # bytes counted until the client has read the response
        try:
            await turns.next(client)
            try:
                if not kept:
                    raise too_much_kept("calls")
                request = await client.read(context.read, most)
                response = handler(request, _call(path, context, client))
                if not isinstance(response, bytes | Pieces):
                    account.unpack(len(request))
                    try:
                        response = await response
                    finally:
                        account.drop_unpacked(len(request))
                whole = response if isinstance(response, bytes) else response.joined()
            except Exception as error:
                visible = _visible(path, error)
                error.__traceback__ = (
                    None  # it would keep the request, and all derived from it, in memory while this waits
                )
                await _abort(context, visible)
            held = 2 * len(whole) + PIECE  # grpcio sends a copy of its own
            account.add(held)
            await context.write(whole)  # grpcio ignores a failed write to a client that is gone
        finally:
            account.remove(held)
            clients.end(client)

    return answer


def _streaming(
    path: str, handler: Callable[[GrpcStream, Call], Awaitable[None]], clients: GrpcioPeers, turns: FairTurns
) -> _Handler:
    async def serve(_: object, context: _Context) -> None:
        client = clients.begin(context.peer())
        kept = client.count()
        stream = GrpcStream(context, client, turns)
        try:
            if not kept:
                await turns.next(client)
                raise too_much_kept("streams")
            await handler(stream, _call(path, context, client))
            await stream.flush()
        except Exception as error:
            visible = _visible(path, error)
            error.__traceback__ = None
            await stream.flush()
            await _abort(context, visible)
        finally:
            stream.close()
            clients.end(client)

    return serve


def _visible(path: str, error: Exception) -> RpcError:
    """The error to send to the client: an RpcError as it is, INTERNAL_ERROR for any other exception."""
    if isinstance(error, RpcError):
        return error
    log.error("handler of %s failed", path, exc_info=error)
    return INTERNAL_ERROR


async def _abort(context: _Context, error: RpcError) -> NoReturn:
    await context.abort(_STATUS[error.code], error.message)


def _call(path: str, context: _Context, client: GrpcioPeer) -> Call:
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        text = value if isinstance(value, str) else b64encode(value).decode()
        metadata[key] = f"{metadata[key]},{text}" if key in metadata else text
    remaining = context.time_remaining()
    deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
    gate = client.gate
    return Call(path, context.peer(), deadline, metadata, gate.enter, gate.hold, client.account)


class GrpcStream:
    """Implements `kine.transport.base.MessageStream` on grpcio's reader and writer.

    grpcio allows one write at a time and each must be awaited, so a task writes what `send` has queued
    and ends when nothing is left.
    """

    def __init__(self, context: _Context, client: GrpcioPeer, turns: FairTurns) -> None:
        self._context = context
        self._client = client
        self._turns = turns
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes, of the message being written too
        self._kept = 0  # bytes counted for the last message
        self._writing: asyncio.Task[None] | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._closed = False
        self._handler = asyncio.current_task()

    def release_received(self) -> None:
        if self._kept:
            self._client.account.give_up(self._kept)
            self._kept = 0

    async def receive(self) -> bytes | None:
        self.release_received()
        await self._room()
        message = await self._context.read()
        if isinstance(message, bytes) and len(message) > SMALL:  # else it is grpc.aio.EOF
            if not self._client.account.keep(len(message)):
                raise too_much_kept("large messages of streams")
            self._kept = len(message)
        # A thousand streams may have messages ready at once, and grpcio needs several loop iterations to
        # start a call, so each iteration must be short.
        await self._turns.next(self._client)
        await self._room()
        return message if isinstance(message, bytes) else None

    async def _room(self) -> None:
        while self.full:  # earlier requests come first
            await self.drain()
            await self._turns.next(self._client)

    def send(self, message: bytes) -> None:
        if self._closed:
            return
        self._queue.append(message)
        self._queued += len(message) + PIECE
        self._client.account.add(len(message) + PIECE)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    @property
    def full(self) -> bool:
        return not self._closed and (self._queued > HIGH_WATER or self._client.account.over)

    async def drain(self) -> None:
        client = self._client
        while not self._closed and (self._queued >= LOW_WATER or not client.account.roomy):
            if self._queued >= LOW_WATER:
                waiter = asyncio.get_running_loop().create_future()
                self._drained.append(waiter)
                await waiter
            else:
                await client.room()

    async def flush(self) -> None:
        """Waits until everything queued is written, or the client is gone."""
        if self._writing is not None:
            await self._writing

    def close(self) -> None:
        """Drops what is queued: the call is over."""
        self._closed = True
        self.release_received()
        self._queue.clear()
        self._client.account.remove(self._queued)
        self._queued = 0
        self._wake()
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self) -> None:
        while self._queue:
            message = self._queue.popleft()
            try:
                await self._context.write(message)
            except Exception:  # grpcio raises several types for a client that is gone
                # grpcio cancels the handler as well, but later, and never if the handler keeps sending.
                if self._handler is not None:
                    self._handler.cancel()
                self.close()
                return
            if self._closed:
                return
            self._queued -= len(message) + PIECE
            self._client.account.remove(len(message) + PIECE)
            if self._queued < LOW_WATER:
                self._wake()

    def _wake(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()
