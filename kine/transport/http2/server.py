"""The server: its sockets, and its connections from the first to the last."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from kine.forms import address as parse_address
from kine.tls import server_context
from kine.transport.base import Limits, Routes, Tls
from kine.transport.http2.opening import Http1
from kine.transport.http2.shell import Shell
from kine.transport.listen import BACKLOG, bind_unix, remove_socket

_HOUSEKEEPING = 5.0  # seconds between looks for silent connections
_LAST_CALL = 0.5  # seconds for a peer to say that it knows we are going


class Http2Server:
    """See `kine.transport.base.Server`. With no address it serves what `take` is given."""

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
        self._taking: dict[str, Any] = {}  # how connections are taken, TLS made once
        self._sockets: list[str] = []
        self.connections: set[Shell] = set()
        self._housekeeping: asyncio.Task[None] | None = None
        self._stopping = False
        self.on_end: Callable[[], None] | None = None  # a connection that `take` was given has ended

    async def start(self) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        options = self._taking = self._options()
        bound = []
        for text in self._addresses:
            address = parse_address(text)
            if address.path:
                sock = bind_unix(address.path)
                server = await loop.create_unix_server(
                    lambda: Shell(self), sock=sock, backlog=BACKLOG, **options
                )
                self._sockets.append(address.path)
                bound.append(text)
            else:
                server = await loop.create_server(
                    lambda: Shell(self), address.host or None, address.port, backlog=BACKLOG, **options
                )
                port = server.sockets[0].getsockname()[1]
                bound.append(f"{text.rpartition(':')[0]}:{port}")
            self._servers.append(server)
        self._housekeeping = asyncio.create_task(self._keep_house(), name="keepalive")
        return bound

    def _options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        context = server_context(self._tls, ("h2", "http/1.1"))
        return {"ssl": context, "ssl_handshake_timeout": self.limits.handshake_timeout}

    async def take(self, connection: socket.socket) -> None:
        """Serves a connection that another process has accepted. Raises OSError for one without TLS."""
        if self._stopping:
            raise ConnectionAbortedError
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Shell(self), connection, **self._taking)

    def forget(self, shell: Shell) -> None:
        """Its connection has ended, or is none of ours."""
        self.connections.discard(shell)
        if self.on_end is not None:
            self.on_end()

    async def stop(self, grace: float) -> None:
        self._stopping = True
        for server in self._servers:
            server.close()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        for shell in tuple(self.connections):
            shell.go_away()
        first = min(grace, _LAST_CALL)
        await self._idle(first)
        for shell in tuple(self.connections):
            shell.last_call()
        await self._idle(grace - first)
        for shell in tuple(self.connections):
            shell.close()
        await asyncio.sleep(0)  # let the last bytes out, and cancelled handlers end
        for path in self._sockets:
            remove_socket(path)

    async def _idle(self, patience: float) -> None:
        waiting = [asyncio.create_task(shell.idle.wait()) for shell in self.connections]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=patience)
            for task in late:
                task.cancel()

    async def _keep_house(self) -> None:
        pause = min(_HOUSEKEEPING, self.limits.keepalive_timeout / 4, self.limits.handshake_timeout / 2)
        while True:
            await asyncio.sleep(pause)
            for shell in tuple(self.connections):
                shell.check_alive()
