"""A worker's end of the channel to its parent: receives connections, and stops when the channel is closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from kine.background_tasks import BackgroundTasks
from kine.workers import parent_channel

log = logging.getLogger(__name__)

Take = Callable[[socket.socket], Awaitable[None]]
"""Serves a connection; returns when it is under way."""

_PATIENCE = 3.0  # seconds for other workers to send their status
_LAST = 10  # seconds after the parent's exit within which even a stuck worker exits
_BLOCK = 256 * 1024


class Worker:
    def __init__(self, number: int, end: socket.socket) -> None:
        self.number = number
        self._channel = end
        self._takes: dict[bytes, Take] = {}
        self._asking = asyncio.Lock()
        self._told: list[socket.socket] = []
        self._all_told: asyncio.Future[None] | None = None
        self._tasks = BackgroundTasks()

    def watch(self, stop: asyncio.Event) -> None:
        """Sets `stop` when the parent has closed the channel or is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._heard, loop, stop)

    # ---- messages to the parent

    def up(self, metrics: Take, asked: Take) -> None:
        """Accepts connections of the metrics address, and status requests of other workers, from now on."""
        self._takes |= {parent_channel.METRICS: metrics, parent_channel.ASKED: asked}
        self._say(parent_channel.UP)

    def ready(self, clients: Take) -> None:
        """Accepts client connections from now on."""
        self._takes[parent_channel.CLIENT] = clients
        self._say(parent_channel.READY)

    def ended(self) -> None:
        """Reports that a client connection has ended."""
        self._say(parent_channel.ENDED)

    def stopping(self) -> None:
        """Accepts no more connections. Those on their way go to another worker when this one exits."""
        self._takes.clear()
        self._say(parent_channel.STOPPING)

    async def others(self) -> list[dict[str, Any]]:
        """The status of the other workers, without those that do not send it in time."""
        async with self._asking:
            self._told.clear()
            self._all_told = asyncio.get_running_loop().create_future()
            self._say(parent_channel.ASK)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._all_told
            told = list(self._told)
        answers = await asyncio.gather(*map(_read, told))
        return [answer for answer in answers if answer is not None]

    def _say(self, byte: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which the channel's reader notices too
            self._channel.send(byte)

    # ---- messages from the parent

    def _heard(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if not said:
            loop.remove_reader(self._channel.fileno())
            if not stop.is_set():
                log.info("stopping with the parent")
            stop.set()
            signal.alarm(_LAST)
        elif said == parent_channel.ALL_TOLD:
            if self._all_told is not None and not self._all_told.done():
                self._all_told.set_result(None)
        elif descriptors:
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            self._took(said, connection)

    def _took(self, kind: bytes, connection: socket.socket) -> None:
        if kind == parent_channel.TOLD:
            self._told.append(connection)
        elif (take := self._takes.get(kind)) is not None:
            if kind != parent_channel.ASKED:
                self._say(parent_channel.TAKEN)
            self._tasks.start(self._take(kind, take, connection))
        else:  # stopping
            connection.close()

    async def _take(self, kind: bytes, take: Take, connection: socket.socket) -> None:
        try:
            await take(connection)
        except OSError:  # the handshake failed, or the peer has disconnected
            connection.close()
            if kind == parent_channel.CLIENT:
                self.ended()


async def tell(connection: socket.socket, what: dict[str, Any]) -> None:
    """Sends a worker's status as JSON to the worker that asked. Raises OSError."""
    with connection:
        data = await asyncio.to_thread(lambda: json.dumps(what).encode())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await asyncio.get_running_loop().sock_sendall(connection, data)


async def _read(connection: socket.socket) -> dict[str, Any] | None:
    loop = asyncio.get_running_loop()
    data = b""
    with connection:
        try:
            async with asyncio.timeout(_PATIENCE):
                while block := await loop.sock_recv(connection, _BLOCK):
                    data += block
            answer: dict[str, Any] = json.loads(data)
        except (OSError, TimeoutError, ValueError):  # the worker has exited meanwhile, or is stuck
            return None
    return answer
