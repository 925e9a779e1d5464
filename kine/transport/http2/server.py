"""The HTTP/2 server: listening sockets, connection limit, keepalive checks and graceful stop."""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kine.address import Address
from kine.fair_queue import FairTurns
from kine.tls import Tls, server_context
from kine.transport.acceptor import Acceptor, RateLimitedWarning
from kine.transport.base import Limits, Pages, Routes
from kine.transport.byte_budget import ByteBudget
from kine.transport.http2.protocol import Http2Protocol
from kine.transport.http2.protocol_detection import Http1
from kine.transport.http2.read_rotation import ReadRotation
from kine.transport.listen_sockets import listen, remove_socket

log = logging.getLogger(__name__)

_HOUSEKEEPING = 5.0  # seconds between checks for silent connections
_SHAKING = 4  # 1/_SHAKING of the allowed connections may be in a TLS handshake
_LATELY = 1.0  # seconds after its start or its last bytes in which a connection is not idle yet
_LAST_CALL = 0.5  # seconds for peers to acknowledge the first GOAWAY


class Http2Server:
    """Implements `kine.transport.base.Server`. Without addresses it serves only sockets given to `take`."""

    def __init__(
        self,
        routes: Routes,
        addresses: Sequence[Address],
        tls: Tls | None,
        limits: Limits,
        http1: Http1 | None = None,
        pages: Pages | None = None,
    ) -> None:
        """`http1` takes over HTTP/1.1 connections; `pages` handles HTTP/2 requests that are not gRPC."""
        self.routes = routes
        self.limits = limits
        self.budget = ByteBudget(limits.max_queued_bytes)
        self.turns = FairTurns()
        self.rotation = ReadRotation()
        self.http1 = http1
        self.pages = pages
        self._addresses = addresses
        self._tls = tls
        self._acceptors: list[Acceptor] = []
        self._crowded = RateLimitedWarning()
        self.turned_away = 0
        self._taking: dict[str, Any] = {}  # TLS options of every connection, built once
        self._sockets: list[str] = []
        self.connections: dict[Http2Protocol, None] = {}  # the oldest first, even if two share a timestamp
        self._housekeeping: asyncio.Task[None] | None = None
        self._stopping = False
        self.on_end: Callable[[], None] | None = None  # called when a connection has ended

    async def start(self) -> Sequence[Address]:
        self._taking = self._options()
        bound = []
        for address in self._addresses:
            sockets = listen(address)
            if address.path:
                self._sockets.append(address.path)
                bound.append(address)
            else:
                bound.append(address.at(sockets[0].getsockname()[1]))
            self._acceptors.append(Acceptor(sockets, self._serve, self._admit, secure=self._tls is not None))
        self._housekeeping = asyncio.create_task(self._keep_house(), name="keepalive")
        return bound

    def _options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        context = server_context(self._tls, ("h2", "http/1.1"))
        return {"ssl": context, "ssl_handshake_timeout": self.limits.handshake_timeout}

    async def take(self, connection: socket.socket) -> None:
        """Serves a connection that another process has accepted. Raises OSError if it is not served."""
        if self._stopping or not self._admit():
            raise ConnectionAbortedError
        await self._serve(connection)

    async def _serve(self, connection: socket.socket) -> None:
        """Serves a connection; returns after the TLS handshake. Raises OSError."""
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Http2Protocol(self), connection, **self._taking)

    @property
    def connected(self) -> int:
        return len(self.connections) + self._shaking_hands

    @property
    def _shaking_hands(self) -> int:
        """Number of connections in a TLS handshake; 0 without TLS."""
        return sum(acceptor.pending for acceptor in self._acceptors) if self._tls is not None else 0

    def _admit(self) -> bool:
        """True if one more connection may be served. At the limit, closes idle connections to make room."""
        most = self.limits.max_connections
        if self.connected < most:
            return True
        shaking = self._shaking_hands
        if shaking * _SHAKING > most or (not self._make_room(most) and shaking):
            max(self._acceptors, key=lambda acceptor: acceptor.pending).give_up_oldest()
            self.turned_away += 1
        served = self.connected < most
        self.turned_away += not served
        self._crowded.warn("--max-connections are open", connections=most, refused=not served)
        return served

    def _make_room(self, most: int) -> bool:
        """Closes the longest idle connections, several at once, as finding them means scanning all."""
        idle = [shell for shell in self.connections if not shell.connection.streams]
        lately = asyncio.get_running_loop().time() - _LATELY
        surplus = self.connected + 1 - most
        for shell in heapq.nsmallest(max(surplus, most // 100), idle, key=partial(_idle_longer, lately)):
            self.turned_away += 1
            self.forget(shell)
            shell.make_room()
        return bool(idle)

    def forget(self, shell: Http2Protocol) -> None:
        """Stops counting a connection that has ended, or that turned out not to be HTTP/2."""
        if shell in self.connections:
            del self.connections[shell]
            if self.on_end is not None:
                self.on_end()

    async def stop(self, grace: float) -> None:
        self._stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
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
        await asyncio.sleep(0)  # lets the last bytes leave and cancelled handlers end
        for path in self._sockets:
            remove_socket(path)

    async def _idle(self, patience: float) -> None:
        waiting = [asyncio.create_task(shell.idle.wait()) for shell in self.connections]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=patience)
            for task in late:
                task.cancel()

    async def _keep_house(self) -> None:
        limits = self.limits
        patience = min(limits.keepalive_timeout, limits.drain_timeout)
        pause = min(_HOUSEKEEPING, patience / 4, limits.handshake_timeout / 2)
        while True:
            await asyncio.sleep(pause)
            for shell in tuple(self.connections):
                shell.check_alive()
            self.budget.cut_off_stalled(asyncio.get_running_loop().time(), limits.drain_timeout)


def _idle_longer(lately: float, shell: Http2Protocol) -> tuple[bool, bool, float]:
    """Sort key for closing: idle ones first, of those the ones without a first frame, the longest silent."""
    return shell.heard > lately, shell.connection.greeted, shell.heard
