"""The connections of one process and their event loop: sockets under `http2.Connection`.

A plain epoll loop instead of asyncio, so that a request creates no task, future or callback object.
"""

from __future__ import annotations

import contextlib
import select
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from hpack import HPACKError

from bench.endpoint import Endpoint, connect
from bench.http2 import MAX_FRAME, Connection, ProtocolError, Receiver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

READ_SIZE = 256 << 10
VIEW_SIZE = 64 << 10  # a read of at least this size is parsed in place instead of being copied
TICK = 0.05  # seconds between two checks for timeouts and lost connections
RECONNECTS = 100  # the limit for one link


class Timed(Protocol):
    start: float


class Link:
    """A connection with its socket; both are replaced after a loss."""

    def __init__(self, loop: Loop, endpoint: Endpoint) -> None:
        self.loop = loop
        self.endpoint = endpoint
        self.arrived = 0.0  # when the data under way to the receivers was read, on the monotonic clock
        self.reconnects = 0
        self.starting: list[Timed] = []  # calls whose clock starts when they are handed to the socket
        self._unsent = b""
        self._sock: socket.socket | None = None
        self._buffer = memoryview(bytearray(READ_SIZE + MAX_FRAME + 9))
        self.connection = Connection(endpoint.authority, secure=endpoint.secure)
        self.open()

    def open(self) -> None:
        """Connects and waits for the server's SETTINGS. Raises OSError, ProtocolError."""
        self.connection = Connection(self.endpoint.authority, secure=self.endpoint.secure)
        self._unsent = b""
        sock = connect(self.endpoint)
        sock.sendall(b"".join(self.connection.out))
        self.connection.out.clear()
        while not self.connection.ready:
            data = sock.recv(READ_SIZE)
            if not data:
                sock.close()
                raise ProtocolError("the server closed the connection before its SETTINGS")
            self.connection.receive(data)
        sock.setblocking(False)
        self._sock = sock
        self.loop.add(self, sock)
        self.flush()

    @property
    def lost(self) -> bool:
        return self._sock is None

    def call(self, receiver: Receiver, path: str, message: bytes, *, last: bool = True) -> None:
        """Starts a call; it is sent when the loop flushes. A lost connection ends it with UNAVAILABLE."""
        connection = self.connection
        if self._sock is None:
            receiver.stream = receiver.received = 0
            self.loop.failed.append(receiver)
            return
        if not connection.out:
            self.loop.dirty.append(self)
        connection.request(receiver, path, message, last=last)

    def send(self, receiver: Receiver, message: bytes) -> None:
        """Sends one more message on an open call."""
        if not self.connection.out:
            self.loop.dirty.append(self)
        self.connection.send(receiver.stream, message)

    def cancel(self, receiver: Receiver) -> None:
        if not self.connection.out:
            self.loop.dirty.append(self)
        self.connection.cancel(receiver)

    def flush(self) -> None:
        """Sends the pending data, as far as the socket accepts it."""
        sock, out = self._sock, self.connection.out
        if sock is None:
            out.clear()
            return
        if not out and not self._unsent:
            return
        data = self._unsent + b"".join(out) if self._unsent else b"".join(out)
        out.clear()
        if self.starting:
            now = monotonic()
            for call in self.starting:
                call.start = now
            self.starting.clear()
        try:
            sent = sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except OSError as bad:
            self.lose(f"connection lost: {bad.strerror or bad}")
            return
        waited = bool(self._unsent)
        self._unsent = data[sent:] if sent < len(data) else b""
        if waited != bool(self._unsent):
            self.loop.want_write(sock, want=not waited)

    def read(self) -> None:
        """Reads from the socket, passes the data to the receivers, and sends the resulting frames."""
        sock = self._sock
        if sock is None:
            return
        data: bytes | memoryview
        try:
            if isinstance(sock, ssl.SSLSocket):
                data = sock.recv(READ_SIZE)
                while sock.pending():
                    data += sock.recv(READ_SIZE)
            else:
                data = self._received(sock)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as bad:
            self.lose(f"connection lost: {bad.strerror or bad}")
            return
        self.arrived = monotonic()
        if not data:
            self.lose(self.connection.goaway or "connection closed by the server")
            return
        try:
            self.connection.receive(data)
        except (ProtocolError, HPACKError) as bad:
            self.lose(f"protocol error: {bad}")
            return
        if self.connection.out or self._unsent:
            self.flush()
        if self.connection.goaway and not self.connection.streams:
            self.lose(self.connection.goaway)

    def _received(self, sock: socket.socket) -> bytes | memoryview:
        """Reads into a reused buffer. Returns a view of it if the data is large (bench: list)."""
        rest = self.connection.take_rest()
        kept = len(rest)
        buffer = self._buffer
        buffer[:kept] = rest
        try:
            size = sock.recv_into(buffer[kept:])
        except OSError:
            self.connection.receive(rest)
            raise
        if not size:
            return b""
        whole = buffer[: kept + size]
        return whole if size >= VIEW_SIZE else bytes(whole)

    def lose(self, reason: str) -> None:
        """Closes the connection and ends its calls with UNAVAILABLE."""
        if self._sock is not None:
            self.loop.remove(self._sock)
            with contextlib.suppress(OSError):
                self._sock.close()
            self._sock = None
        self._unsent = b""
        self.connection.out.clear()
        self.arrived = monotonic()
        self.connection.fail(reason)

    def reopen(self) -> None:
        """Reconnects, up to RECONNECTS times in all."""
        if self.reconnects < RECONNECTS:
            self.reconnects += 1
            with contextlib.suppress(OSError, ProtocolError, HPACKError):
                self.open()


class Loop:
    """Runs the links of one process until `stop` is called or a time is reached."""

    def __init__(self) -> None:
        self.dirty: list[Link] = []  # links with data to flush
        self.failed: list[Receiver] = []  # calls made on a lost link
        self.links: list[Link] = []
        self.on_tick: Callable[[float], None] | None = None  # every TICK seconds, with the time
        self.reconnect = True
        self._epoll = select.epoll()
        self._by_fd: dict[int, Link] = {}
        self._stop = False
        self._next_tick = 0.0

    def open(self, endpoint: Endpoint, links: int) -> list[Link]:
        """Opens `links` connections. Raises OSError, ProtocolError."""
        made = [Link(self, endpoint) for _ in range(links)]
        self.links += made
        return made

    def add(self, link: Link, sock: socket.socket) -> None:
        self._by_fd[sock.fileno()] = link
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        self._by_fd.pop(sock.fileno(), None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(sock.fileno())

    def want_write(self, sock: socket.socket, *, want: bool) -> None:
        self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if want else 0))

    def stop(self) -> None:
        """Makes `run` return after the current iteration."""
        self._stop = True

    def run(self, until: float, due: Callable[[float], float] | None = None) -> None:
        """Iterates until the monotonic time `until` or `stop`.

        `due` is called with the time in each iteration; it starts the requests that are due and returns the
        time for its next call.
        """
        self._stop = False
        wake = until
        while not self._stop:
            now = monotonic()
            if now >= until:
                return
            if now >= self._next_tick:
                self._tick(now)
            if due is not None:
                wake = min(due(now), until)
            self.flush()
            if self._stop:
                return
            self._turn(min(wake, self._next_tick) - monotonic())

    def _turn(self, timeout: float) -> None:
        # epoll rounds timeouts up to milliseconds; select has microseconds and can wait for an epoll
        # descriptor.
        if timeout > 0 and not select.select([self._epoll], [], [], timeout)[0]:
            return
        for fd, event in self._epoll.poll(0):
            link = self._by_fd.get(fd)
            if link is None:
                continue
            if event & select.EPOLLOUT:
                link.flush()
            if event & ~select.EPOLLOUT:
                link.read()
                self.flush()

    def flush(self) -> None:
        """Sends the pending data of all links."""
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                link.flush()

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK
        failed, self.failed = self.failed, []
        for receiver in failed:
            receiver.end(14, "no connection")
        for link in self.links:
            if self.reconnect and link.lost:
                link.reopen()
        if self.on_tick is not None:
            self.on_tick(now)

    def close(self) -> None:
        """Closes every connection; calls in flight end with UNAVAILABLE."""
        self.reconnect = False
        for link in self.links:
            link.lose("closed by the driver")
        self.links.clear()
        self._epoll.close()
