"""The metrics address: /metrics, /healthz, /readyz and, where asked for, /debug/pprof/.

HTTP/1.1 for a handful of scrapers and probes: GET and HEAD, one small request at a time, keep-alive.
A reader that is slow, silent or talks too much is cut off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kine.observe import metrics, profiling
from kine.observe.logging import fields
from kine.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kine.forms import Address
    from kine.transport.base import Tls

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 8 * 1024  # request line and headers
MAX_CONNECTIONS = 64
REQUEST_TIMEOUT = 5.0  # seconds from a request's first byte to its last, and for the answer to leave
READY_TIMEOUT = 5.0  # seconds after which a server that cannot tell whether it is ready is not
IDLE_TIMEOUT = 120.0  # seconds between requests of a connection
TEXT = "text/plain; charset=utf-8"

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    accept: str
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    status: int = 200
    content_type: str = TEXT


class BadRequestError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class MetricsServer:
    """Serves from `start` to `stop`. `ready` returns why not, or an empty text for ready."""

    def __init__(
        self,
        address: Address | None,
        ready: Callable[[], Awaitable[str]],
        tls: Tls | None = None,
        *,
        enable_profiling: bool = False,
        exposition: Callable[[str], Awaitable[tuple[bytes, str]]] = metrics.exposition,
    ) -> None:
        self._exposition = exposition
        self._address = address
        self._ready = ready
        self._options: dict[str, Any] = (
            {"ssl": server_context(tls), "ssl_handshake_timeout": REQUEST_TIMEOUT} if tls else {}
        )
        self._profiling = enable_profiling
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Binds; returns the address bound, nothing for none. Raises OSError, ssl.SSLError."""
        if self._address is None:
            return ""
        self._server = await asyncio.start_server(
            self.serve,
            self._address.host or None,
            self._address.port,
            limit=MAX_REQUEST_BYTES,
            **self._options,
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def take(self, connection: socket.socket) -> None:
        """Serves a connection that another process has accepted. Raises OSError for one without TLS."""
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader, self.serve)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: protocol, connection, **self._options)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._requests(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive = True
        while keep_alive:
            head_only = False
            try:
                request = await _read(reader)
                head_only, keep_alive = request.method == "HEAD", request.keep_alive
                answer = await self._answer(request)
            except BadRequestError as error:
                answer, keep_alive = Answer(f"{error}\n".encode(), error.status), False
            writer.write(_encode(answer, head_only=head_only, keep_alive=keep_alive))
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await writer.drain()

    async def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            raise BadRequestError(405, "only GET and HEAD are served here")
        try:
            if request.path == "/metrics":
                body, content_type = await self._exposition(request.accept)
                return Answer(body, content_type=content_type)
            if request.path == "/health":  # etcd's form
                why_not = await self._why_not_ready()
                body = json.dumps({"health": "false" if why_not else "true", "reason": why_not}).encode()
                return Answer(body, 503 if why_not else 200, "application/json")
            if request.path == "/healthz":
                return Answer(b"ok\n")
            if request.path == "/readyz":
                why_not = await self._why_not_ready()
                return Answer(f"{why_not}\n".encode(), 503) if why_not else Answer(b"ok\n")
            if self._profiling and request.path.startswith("/debug/pprof"):
                page = await profiling.page(
                    request.path.removeprefix("/debug/pprof").strip("/"), request.query
                )
                if page is not None:
                    return Answer(page.encode("utf-8", "backslashreplace"))
        except profiling.BusyError as error:
            return Answer(f"{error}\n".encode(), 429)
        except ValueError as error:
            return Answer(f"{error}\n".encode(), 400)
        except Exception:
            log.exception("metrics request failed", extra=fields(path=request.path))
            return Answer(b"failed; the server's log says why\n", 500)
        served = "/metrics /healthz /readyz" + (" /debug/pprof/" if self._profiling else "")
        return Answer(f"not here; served are {served}\n".encode(), 404)

    async def _why_not_ready(self) -> str:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                return await self._ready()
        except TimeoutError:
            return f"the database has not answered for {READY_TIMEOUT:.0f} s"


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        async with asyncio.timeout(IDLE_TIMEOUT):
            first = await reader.readexactly(1)
        async with asyncio.timeout(REQUEST_TIMEOUT):
            head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadRequestError(431, f"a request has at most {MAX_REQUEST_BYTES} bytes") from None
    line, *rest = head.decode("latin-1").split("\r\n")
    method, _, target_and_version = line.partition(" ")
    target, _, version = target_and_version.rpartition(" ")
    if not target.startswith("/") or version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequestError(400, "not an HTTP/1.1 request")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (item.partition(":") for item in rest)
    }
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise BadRequestError(400, "a request here has no body")
    try:
        parts = urlsplit(target)
    except ValueError:
        raise BadRequestError(400, "not a URL") from None
    connection = headers.get("connection", "").lower()
    return Request(
        method=method,
        path=parts.path,
        query={name: values[-1] for name, values in parse_qs(parts.query).items()},
        accept=headers.get("accept", ""),
        keep_alive=version == "HTTP/1.1" and "close" not in connection,
    )


def _encode(answer: Answer, *, head_only: bool, keep_alive: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode("latin-1")
    return head if head_only else head + answer.body
