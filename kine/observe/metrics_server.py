"""HTTP server of the metrics address: /metrics, probes, /version and, if enabled, /debug/pprof/.

HTTP/1.1 for a handful of scrapers and probes: GET and HEAD, one small request at a time, keep-alive.
A client that is slow, silent or sends too much is disconnected. The clients' port serves the same requests,
over HTTP/2 too (see `page`). Its connections have a limit of their own, so that they cannot keep a probe from
the metrics address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kine.fair_queue import FairTurns
from kine.observe import metrics, profiling
from kine.observe.http1_connection_limit import ConnectionLimit
from kine.observe.logging import fields
from kine.tls import Tls, server_context
from kine.transport.acceptor import Acceptor
from kine.transport.base import Page
from kine.transport.listen_sockets import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kine.address import Address

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 8 * 1024  # request line and headers
MAX_CONNECTIONS = 64  # HTTP/1.1 connections of the metrics address, and of the clients' port
REQUEST_TIMEOUT = 5.0  # seconds from a request's first byte to its last, and for the response to leave
READY_TIMEOUT = 5.0  # seconds after which an unfinished readiness check counts as not ready
IDLE_TIMEOUT = 10.0  # seconds between requests of a connection
JSON = "application/json"

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    query: Mapping[str, str]
    accept: str
    keep_alive: bool


class NotReadyError(Exception):
    """The page is not available yet; the text says why."""


class BadRequestError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class MetricsServer:
    """Serves from `start` to `stop`. `ready` returns the reason for not being ready, or "" if ready."""

    def __init__(
        self,
        address: Address | None,
        ready: Callable[[], Awaitable[str]],
        tls: Tls | None = None,
        *,
        enable_profiling: bool = False,
        exposition: Callable[[str], Awaitable[tuple[bytes, str]]] = metrics.exposition,
        version: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        """`version` returns the JSON of /version. It raises NotReadyError while the version is not known."""
        self._exposition = exposition
        self._version = version
        self._pages = 0  # HTTP/2 requests in progress
        self._address = address
        self._ready = ready
        self._options: dict[str, Any] = (
            {"ssl": server_context(tls), "ssl_handshake_timeout": REQUEST_TIMEOUT} if tls else {}
        )
        self._profiling = enable_profiling
        # If client certificates are requested but optional, only clients with one get profiles.
        self._certified = tls is not None and bool(tls.client_ca_file)
        self._scrapers = ConnectionLimit(MAX_CONNECTIONS)
        self._clients = ConnectionLimit(MAX_CONNECTIONS)
        self._acceptor: Acceptor | None = None
        self._turns = (
            FairTurns()
        )  # else all pipelined requests of a client would be answered in one loop iteration

    async def start(self) -> str:
        """Binds; returns the bound address, "" if there is none. Raises OSError, ssl.SSLError."""
        if self._address is None:
            return ""
        sockets = listen(self._address)
        self._acceptor = Acceptor(sockets, self.take, self._admit, secure=bool(self._options))
        host, port = sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _admit(self) -> bool:
        """Always True; at the limit of handshakes, gives up the oldest one."""
        assert self._acceptor is not None
        if self._acceptor.pending >= MAX_CONNECTIONS:
            self._acceptor.give_up_oldest()
        return True

    async def take(self, connection: socket.socket) -> None:
        """Serves an accepted connection. Raises OSError if its TLS handshake fails."""
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader, self.serve)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: protocol, connection, **self._options)

    async def stop(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        await self._scrapers.close()
        await self._clients.close()
        self._acceptor = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection of the metrics address."""
        await self._serve(reader, writer, self._scrapers)

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection of the clients' port, whose TLS has verified a certificate if one is needed."""
        await self._serve(reader, writer, self._clients)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: ConnectionLimit
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        limit.enter(writer, task)
        try:
            await self._requests(reader, writer, limit)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            limit.leave(writer)
            writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: ConnectionLimit
    ) -> None:
        trusted = limit is self._clients or not self._certified or bool(writer.get_extra_info("peercert"))
        keep_alive, ahead = True, b""
        while keep_alive:
            head_only = False
            try:
                request = await _read(reader, ahead)
                limit.asked(writer)
                head_only, keep_alive = request.method == "HEAD", request.keep_alive
                await self._turns.next(writer)
                answer, ahead = await self._answer_who_stays(request, reader, trusted=trusted)
            except BadRequestError as error:
                answer, keep_alive = Page(f"{error}\n".encode(), error.status), False
            if writer.is_closing():
                return  # the client has disconnected meanwhile; uvloop accepts no write then
            writer.write(_encode(answer, head_only=head_only, keep_alive=keep_alive))
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await writer.drain()

    async def _answer_who_stays(
        self, request: HttpRequest, reader: asyncio.StreamReader, *, trusted: bool
    ) -> tuple[Page, bytes]:
        """The page, and the first byte of the next request if it has arrived.

        A profile ends when its client disconnects: raises ConnectionResetError.
        """
        if not self._profiles(request):
            return await self._answer(request, trusted=trusted), b""
        making = asyncio.ensure_future(self._answer(request, trusted=trusted))
        next_byte = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((making, next_byte), return_when=asyncio.FIRST_COMPLETED)
            if not making.done() and not next_byte.result():
                raise ConnectionResetError
            return await making, next_byte.result() if next_byte.done() else b""
        finally:
            making.cancel()
            next_byte.cancel()
            await asyncio.wait((making, next_byte))  # a StreamReader allows only one pending read

    def _profiles(self, request: HttpRequest) -> bool:
        return self._profiling and request.path.startswith("/debug/pprof")

    async def page(self, method: str, target: str, accept: str) -> Page:
        """The response to an HTTP/2 request on the clients' port."""
        if self._pages >= MAX_CONNECTIONS:
            return Page(b"too many requests at once; try again\n", 429)
        self._pages += 1
        try:
            return await self._answer(_request(method, target, accept), trusted=True)
        except BadRequestError as error:
            return Page(f"{error}\n".encode(), error.status)
        finally:
            self._pages -= 1

    async def _answer(self, request: HttpRequest, *, trusted: bool) -> Page:
        if request.method not in ("GET", "HEAD"):
            raise BadRequestError(405, "only GET and HEAD are served here")
        try:
            if request.path == "/metrics":
                body, content_type = await self._exposition(request.accept)
                return Page(body, content_type=content_type)
            if request.path == "/health":  # in etcd's format
                why_not = await self._why_not_ready()
                body = json.dumps({"health": "false" if why_not else "true", "reason": why_not}).encode()
                return Page(body, 503 if why_not else 200, JSON)
            if request.path == "/version" and self._version is not None:
                return Page(await self._version(), content_type=JSON)
            if request.path in ("/healthz", "/livez"):
                return Page(b"ok\n")
            if request.path == "/readyz":
                why_not = await self._why_not_ready()
                return Page(f"{why_not}\n".encode(), 503) if why_not else Page(b"ok\n")
            if self._profiles(request):
                if not trusted:
                    return Page(b"profiles need a certificate that --trusted-ca-file signed\n", 403)
                page = await profiling.page(
                    request.path.removeprefix("/debug/pprof").strip("/"), request.query
                )
                if page is not None:
                    return Page(page.encode("utf-8", "backslashreplace"))
        except NotReadyError as error:
            return Page(f"{error}\n".encode(), 503)
        except profiling.ProfilerBusyError as error:
            return Page(f"{error}\n".encode(), 429)
        except ValueError as error:
            return Page(f"{error}\n".encode(), 400)
        except Exception:
            log.exception("metrics request failed", extra=fields(path=request.path))
            return Page(b"failed; the server's log says why\n", 500)
        profiles = " /debug/pprof/" if self._profiling else ""
        served = f"/metrics /health /healthz /livez /readyz /version{profiles}"
        return Page(f"not here; served are {served}\n".encode(), 404)

    async def _why_not_ready(self) -> str:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                return await self._ready()
        except TimeoutError:
            return f"the database has not answered for {READY_TIMEOUT:.0f} s"


async def _read(reader: asyncio.StreamReader, ahead: bytes) -> HttpRequest:
    """Reads a request, of which `ahead` has been read already.

    Raises BadRequestError, TimeoutError, asyncio.IncompleteReadError.
    """
    try:
        async with asyncio.timeout(IDLE_TIMEOUT):
            first = ahead or await reader.readexactly(1)
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
    connection = headers.get("connection", "").lower()
    keep_alive = version == "HTTP/1.1" and "close" not in connection
    return _request(method, target, headers.get("accept", ""), keep_alive=keep_alive)


def _request(method: str, target: str, accept: str, *, keep_alive: bool = True) -> HttpRequest:
    """A request with its target split into path and query. Raises BadRequestError."""
    try:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        raise BadRequestError(400, "not a URL") from None
    return HttpRequest(method, parts.path, query, accept, keep_alive)


def _encode(answer: Page, *, head_only: bool, keep_alive: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode("latin-1")
    return head if head_only else head + answer.body
