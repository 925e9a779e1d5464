"""The routes served by grpcio's asyncio server: the reference the fast transport is measured against.

Messages pass as bytes: no serializer is registered, so the library hands over what came off the wire.
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
from kine.forms import Address
from kine.forms import address as parse_address
from kine.observe.logging import fields
from kine.transport.base import (
    HIGH_WATER,
    INTERNAL_ERROR,
    LOW_WATER,
    Call,
    Limits,
    Pieces,
    Routes,
    RpcError,
    Tls,
    Unary,
    UnaryHandler,
    unknown_method,
)
from kine.transport.listen import clear_stale_socket, remove_socket

log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Handler = Callable[[Any, _Context], Awaitable[Any]]
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """Implements `kine.transport.base.Server`."""

    def __init__(self, routes: Routes, addresses: Sequence[str], tls: Tls | None, limits: Limits) -> None:
        """Raises ValueError for an address that is none."""
        self._routes = routes
        self._addresses = [parse_address(address) for address in addresses]
        self._tls = tls
        self._limits = limits
        self._server: grpc.aio.Server | None = None

    async def start(self) -> Sequence[str]:
        server = grpc.aio.server(options=_options(self._limits))
        server.add_generic_rpc_handlers((_Routed(self._routes),))
        credentials = None if self._tls is None else _credentials(self._tls)
        bound = [str(_bind(server, address, credentials)) for address in self._addresses]
        await server.start()
        self._server = server
        return bound

    async def stop(self, grace: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        await server.stop(grace)
        for address in self._addresses:
            if address.path:
                remove_socket(address.path)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it silently
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.keepalive_time_ms", int(limits.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.keepalive_min_interval * 1000)),
    ]


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Follows the files: see `kine.tls.server_context`. Raises OSError, ssl.SSLError."""
    stamps, unusable = tls_files.stamps(tls), tls_files.Stamps()

    def renewed() -> Any:
        """Asked by grpcio at each handshake, in a thread of its own; None keeps what it has."""
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
    tls_files.fixed_context(tls)  # grpcio finds out only when a client comes
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
    return address if address.path else Address(address.host, port)


class _Routed(grpc.GenericRpcHandler):
    """Finds the handler by path, as generated code would by service and method."""

    def __init__(self, routes: Routes) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(_unary(path, route.handler))
            if isinstance(route, Unary)
            else grpc.stream_stream_rpc_method_handler(_streaming(path, route.handler))
            for path, route in routes.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        known = self._handlers.get(details.method)
        if known is not None:
            return known
        error = unknown_method(details.method, self._handlers)

        async def refuse(_: object, context: _Context) -> None:
            await _abort(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _unary(path: str, handler: UnaryHandler) -> _Handler:
    async def answer(request: bytes, context: _Context) -> bytes:
        try:
            response = handler(request, _call(path, context))
            if not isinstance(response, bytes | Pieces):
                response = await response
            return response if isinstance(response, bytes) else response.joined()
        except Exception as error:
            await _abort(context, _visible(path, error))

    return answer


def _streaming(path: str, handler: Callable[[GrpcStream, Call], Awaitable[None]]) -> _Handler:
    async def serve(_: object, context: _Context) -> None:
        stream = GrpcStream(context)
        try:
            await handler(stream, _call(path, context))
            await stream.flush()
        except Exception as error:
            visible = _visible(path, error)
            await stream.flush()
            await _abort(context, visible)
        finally:
            stream.close()

    return serve


def _visible(path: str, error: Exception) -> RpcError:
    """What the client may see of an error: our own as they are, anything else by name of its class only."""
    if isinstance(error, RpcError):
        return error
    log.error("handler of %s failed", path, exc_info=error)
    return INTERNAL_ERROR


async def _abort(context: _Context, error: RpcError) -> NoReturn:
    await context.abort(_STATUS[error.code], error.message)


def _call(path: str, context: _Context) -> Call:
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        text = value if isinstance(value, str) else b64encode(value).decode()
        metadata[key] = f"{metadata[key]},{text}" if key in metadata else text
    remaining = context.time_remaining()
    deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
    return Call(path, context.peer(), deadline, metadata)


class GrpcStream:
    """Implements `kine.transport.base.Stream` on grpcio's reader and writer.

    grpcio allows one write at a time and each must be awaited, so a task writes what `send` has queued
    and ends when nothing is left.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes, of the message being written too
        self._writing: asyncio.Task[None] | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._closed = False

    async def receive(self) -> bytes | None:
        message = await self._context.read()
        return message if isinstance(message, bytes) else None  # else it is grpc.aio.EOF

    def send(self, message: bytes) -> None:
        if self._closed:
            return
        self._queue.append(message)
        self._queued += len(message)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    @property
    def full(self) -> bool:
        return self._queued > HIGH_WATER

    async def drain(self) -> None:
        if self._queued >= LOW_WATER:
            waiter = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            await waiter

    async def flush(self) -> None:
        """Waits until everything queued is written, or the client gone."""
        if self._writing is not None:
            await self._writing

    def close(self) -> None:
        """Drops what is queued: the call is over."""
        self._closed = True
        self._queue.clear()
        self._queued = 0
        self._wake()
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self) -> None:
        while self._queue:
            message = self._queue.popleft()
            try:
                await self._context.write(message)
            except Exception:  # grpcio has several for a client that is gone; it cancels our call as well
                self.close()
                return
            self._queued -= len(message)
            if self._queued < LOW_WATER:
                self._wake()

    def _wake(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()
