"""Accept loop for a transport or the metrics address, which also counts connections still in a handshake.

asyncio's own servers accept every connection and do not report failed TLS handshakes. Here each accepted
socket is passed to a callback, and the handshake is awaited. Failures are logged at a limited rate. When the
process is out of file descriptors, accepting pauses for `BREATHER` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from kine.observe.logging import fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

log = logging.getLogger(__name__)

_AT_ONCE = 8  # accepted per loop iteration: `admit` can only close connections of earlier iterations
BREATHER = 0.2  # seconds to pause accepting after accept() has failed
_SELDOM = 10.0  # minimum seconds between two log lines of one kind


class RateLimitedWarning:
    """Logs at most one line every ten seconds, with the number of suppressed ones as `left_out`."""

    def __init__(self) -> None:
        self._due = 0.0
        self._left_out = 0

    def warn(self, message: str, **about: object) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._due:
            self._left_out += 1
            return
        self._due = now + _SELDOM
        left_out, self._left_out = self._left_out, 0
        log.warning(message, extra=fields(**about, left_out=left_out))


class ExhaustedError(Exception):
    """accept() failed, usually because the process or the system is out of file descriptors."""


def accepted(listener: socket.socket, most: int) -> Iterator[tuple[socket.socket, object]]:
    """Yields up to `most` waiting connections, each with its peer's address. Raises ExhaustedError."""
    for _ in range(most):
        try:
            connection = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            raise ExhaustedError(error.strerror) from None
        yield connection


class Acceptor:
    """Accepts connections on its listeners and passes those that `admit` allows to `take`."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        take: Callable[[socket.socket], Awaitable[None]],
        admit: Callable[[], bool],
        *,
        secure: bool,
    ) -> None:
        """`take` starts to serve a connection and returns after its TLS handshake, if it is `secure`."""
        self._listeners = listeners
        self._take = take
        self._admit = admit
        self._secure = secure
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Task[None], socket.socket] = {}  # the oldest first
        self._failed, self._exhausted = RateLimitedWarning(), RateLimitedWarning()
        self._open = True
        self._listen()

    @property
    def pending(self) -> int:
        """Number of connections still in their handshake."""
        return len(self._pending)

    def give_up_oldest(self) -> None:
        """Ends the handshake that has been under way for longest."""
        task, connection = next(iter(self._pending.items()))
        del self._pending[task]
        _shut(connection)
        task.cancel()

    def close(self) -> None:
        if not self._open:  # close() may be called twice
            return
        self._open = False
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        while self._pending:
            self.give_up_oldest()

    def _listen(self) -> None:
        if self._open:
            for listener in self._listeners:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            for connection, peer in accepted(listener, _AT_ONCE):
                if not self._admit():
                    connection.close()
                    continue
                connection.setblocking(False)
                task = self._loop.create_task(self._begin(connection, peer))
                self._pending[task] = connection
                task.add_done_callback(self._over)
        except ExhaustedError as error:
            self._exhausted.warn("cannot accept a connection", error=str(error))
            for each in self._listeners:
                self._loop.remove_reader(each.fileno())
            self._loop.call_later(BREATHER, self._listen)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)

    async def _begin(self, connection: socket.socket, name: object) -> None:
        try:
            await self._take(connection)
        except OSError as error:  # ssl.SSLError among them
            connection.close()
            if self._secure:
                self._failed.warn("a TLS handshake failed", peer=_named(name), error=_reason(error))
        except asyncio.CancelledError:
            connection.close()
            raise


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the peer has closed it already
        connection.shutdown(socket.SHUT_RDWR)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(error) or type(error).__name__


def _named(name: object) -> str:
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix:"
