"""A worker's end of its parent's channel: connections come in by it, and its end says to stop."""

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

_PATIENCE = 3.0  # seconds for other workers to tell what they have to
_LAST = 10  # seconds after the parent's end in which even a stuck worker ends
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
        """Sets `stop` when the parent says so, or is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._heard, loop, stop)

    # ---- what it tells the parent

    def up(self, metrics: Take, asked: Take) -> None:
        """From now on connections of the metrics address come, and other workers' questions."""
        self._takes |= {parent_channel.METRICS: metrics, parent_channel.ASKED: asked}
        self._say(parent_channel.UP)

    def ready(self, clients: Take) -> None:
        """From now on clients' connections come."""
        self._takes[parent_channel.CLIENT] = clients
        self._say(parent_channel.READY)

    def ended(self) -> None:
        """A client's connection has ended."""
        self._say(parent_channel.ENDED)

    def stopping(self) -> None:
        """No connection is taken any more. What is on its way goes to another worker when this one ends."""
        self._takes.clear()
        self._say(parent_channel.STOPPING)

    async def others(self) -> list[dict[str, Any]]:
        """What the other workers tell of themselves; one that does not in time is left out."""
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
        with contextlib.suppress(OSError):  # the parent has gone, which the channel's reader hears too
            self._channel.send(byte)

    # ---- what it hears

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
        except OSError:  # a handshake that failed, or a peer that has gone already
            connection.close()
            if kind == parent_channel.CLIENT:
                self.ended()


async def tell(connection: socket.socket, what: dict[str, Any]) -> None:
    """Tells it the worker that asked. Raises OSError."""
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
        except (OSError, TimeoutError, ValueError):  # it has ended meanwhile, or is stuck
            return None
    return answer
