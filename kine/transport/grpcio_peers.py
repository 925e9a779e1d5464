"""Per-peer accounting for the grpcio transport, which identifies a connection by its peer's address only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from kine.fair_queue import FairSemaphore
from kine.observe.logging import fields
from kine.transport.base import Code, RpcError
from kine.transport.response_admission import ResponseAdmission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from kine.transport.byte_budget import ByteBudget

log = logging.getLogger(__name__)

_CALL = 24 * 1024  # bytes that a call takes, grpcio's own included
_FREE = 16  # calls of a connection that do not count: the connection itself takes as much
_RESUMED = 16  # calls resumed per loop iteration when a connection has room again
_READING = 16  # unary requests read at once from one connection
_SLOW = 1.0  # seconds after which an incomplete request counts as the largest allowed size


_TOO_MUCH = RpcError(Code.RESOURCE_EXHAUSTED, "too many requests are half sent: send each without pausing")
_CUT_SHORT = RpcError(Code.INTERNAL, "the call ended within a message")


class GrpcioPeer:
    """Implements `kine.transport.byte_budget.BudgetedClient` for one peer address.

    All clients of a unix socket have the same address and count as one.
    """

    def __init__(self, peer: str, budget: ByteBudget) -> None:
        self.peer = peer
        self.account = budget.account(self)
        self.gate = ResponseAdmission(self.account)
        self.calls = 0
        self._counted = _FREE  # calls accounted for, the free ones included
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resuming = False
        self._acknowledged = 0  # bytes, at the last call of `look`
        self._reading = FairSemaphore(_READING)
        self._slow: dict[asyncio.Task[Any], int] = {}  # readers of incomplete requests, with the counted size
        self._shed: set[asyncio.Task[Any]] = set()  # those of them that were cancelled by `shed`

    def count(self) -> bool:
        """Counts a call that has begun. False: there is no room, refuse it."""
        if self.calls > self._counted:
            if not self.account.keep(_CALL):
                return False
            self._counted += 1
        return True

    def count_again(self) -> None:
        """Stops counting a call that has ended."""
        if self._counted > max(self.calls, _FREE):
            self._counted -= 1
            self.account.give_up(_CALL)

    async def room(self) -> None:
        """Returns once the account has room."""
        while not self.account.roomy:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            self.account.wait()
            await waiter

    def resume(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resuming = False
        self.gate.open()
        resumed = 0
        while self._waiting and resumed < _RESUMED and self.account.roomy:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                resumed += 1
        if self._waiting:
            if self.account.roomy:
                self.resume()
            else:
                self.account.wait()

    async def read(self, read: Callable[[], Awaitable[Any]], most: int) -> bytes:
        """Reads a unary request of up to `most` bytes once there is room. Raises RpcError.

        grpcio buffers the request while it is being read, and does not report how much of it has arrived.
        """
        async with self._reading.one():
            if self.account.over:  # earlier requests come first
                await self.room()
            message = await self._read(read, most)
            if self.account.over:  # because of requests read at the same time
                await self.room()
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise _CUT_SHORT
        return message

    async def _read(self, read: Callable[[], Awaitable[Any]], most: int) -> Any:
        task = asyncio.current_task()
        assert task is not None
        timer = self._loop.call_later(_SLOW, self._is_slow, task, most)
        try:
            return await read()
        except asyncio.CancelledError:
            if task not in self._shed:
                raise
            self._shed.discard(task)
            task.uncancel()
            raise _TOO_MUCH from None
        finally:
            timer.cancel()
            self.account.release_received(self._slow.pop(task, 0))

    def _is_slow(self, task: asyncio.Task[Any], size: int) -> None:
        self._slow[task] = size
        self.account.take_in(size)
        if self.account.crowded:
            self.account.make_room()

    def shed(self) -> bool:
        if not self._slow:
            return False
        task = next(iter(self._slow))
        self.account.release_received(self._slow.pop(task))
        self._shed.add(task)
        task.cancel()
        return True

    def cut_off(self) -> None:
        """Shuts the socket down: grpcio cannot, and keeps queued data until the connection ends."""
        log.warning(
            "closing a connection: its client does not take its answers",
            extra=fields(peer=self.peer, queued_bytes=self.account.queued),
        )
        for found in _connections(self.peer):
            found.shutdown(socket.SHUT_RDWR)

    def look(self) -> None:
        """Counts bytes acknowledged since the last call: grpcio reports only complete responses as sent."""
        acknowledged = sum(map(_acknowledged, _connections(self.peer)))
        self.account.taken += max(0, acknowledged - self._acknowledged)
        self._acknowledged = acknowledged


def _connections(peer: str) -> Iterator[socket.socket]:
    """Sockets of this process that are connected to the peer."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
                with socket.socket(fileno=os.dup(int(descriptor))) as found:
                    if _named(found.getpeername()) == peer:
                        yield found


def crowd(ports: frozenset[int], busy: Collection[str], most: int) -> tuple[int, int]:
    """Closes connections to these ports beyond `most`, idle ones first. Returns how many it found and closed.

    Needed because grpcio does not limit the connections that it accepts. Callable from any thread.
    """
    found: list[tuple[bool, int, str]] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
                with socket.socket(fileno=os.dup(int(descriptor))) as one:
                    here = one.getsockname()
                    if isinstance(here, tuple) and here[1] in ports:
                        peer = _named(one.getpeername())
                        found.append((peer in busy, -int(descriptor), peer))
    ended = sorted(found)[: max(0, len(found) - most)]
    for _, number, peer in ended:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(-number)) as one:
            if _named(one.getpeername()) == peer:
                one.shutdown(socket.SHUT_RDWR)
    return len(found), len(ended)


def _acknowledged(found: socket.socket) -> int:
    """Bytes that the peer has acknowledged: `tcpi_bytes_acked` of struct tcp_info (linux/tcp.h)."""
    told = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    return int.from_bytes(told[120:128], sys.byteorder)


def _named(peer: object) -> str:
    """The peer in grpcio's notation, from its socket address."""
    if not isinstance(peer, tuple):
        return ""
    host, port = peer[0].removeprefix("::ffff:"), peer[1]  # grpcio's sockets are dual-stack
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


class GrpcioPeers:
    """The peers with calls in progress, by address."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._clients: dict[str, GrpcioPeer] = {}

    def begin(self, peer: str) -> GrpcioPeer:
        """Registers a call of this peer; call `end` when it is over."""
        client = self._clients.get(peer)
        if client is None:
            client = self._clients[peer] = GrpcioPeer(peer, self._budget)
        client.calls += 1
        return client

    def end(self, client: GrpcioPeer) -> None:
        client.calls -= 1
        client.count_again()
        if not client.calls:
            del self._clients[client.peer]
            client.account.close()

    @property
    def peers(self) -> frozenset[str]:
        return frozenset(self._clients)

    def look(self) -> None:
        """Updates the bytes sent to the clients that block others."""
        for client in tuple(self._clients.values()):
            if client.account.pressing:
                client.look()
