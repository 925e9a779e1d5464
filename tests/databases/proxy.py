"""TCP proxy that injects network faults: stalls, delays, lost responses and broken connections."""

from __future__ import annotations

import asyncio
import contextlib

REQUESTS, ANSWERS = "requests", "answers"


class Proxy:
    """A proxy between clients and 127.0.0.1:`target`. An async context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = {REQUESTS: asyncio.Event(), ANSWERS: asyncio.Event()}
        self.flow()
        self.port = 0
        self.swallow_answers = False  # requests arrive, answers do not
        self.delay = dict.fromkeys(self._open, 0.0)  # seconds, to what is sent in that direction
        self.rename = (b"", b"")  # in requests, replaces the first by the second, of equal length
        self.sent = 0  # bytes clients have sent so far
        self.refusing = False

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, *directions: str) -> None:
        """Holds back all data, or that of the given directions, with the connections left open."""
        for direction in directions or self._open:
            self._open[direction].clear()

    def flow(self) -> None:
        """Passes all data again, including what was held back."""
        for opened in self._open.values():
            opened.set()

    def cut(self) -> None:
        """Breaks every open connection."""
        for writer in list(self._writers):
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink, direction in ((reader, far_writer, REQUESTS), (far_reader, writer, ANSWERS)):
            task = asyncio.create_task(self._pump(source, sink, direction))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await source.read(65536):
                if self.delay[direction]:
                    await asyncio.sleep(self.delay[direction])
                await self._open[direction].wait()
                if direction == ANSWERS and self.swallow_answers:
                    continue
                if direction == REQUESTS:
                    self.sent += len(data)
                    if self.rename[0]:
                        data = data.replace(*self.rename)
                sink.write(data)
                await sink.drain()
        with contextlib.suppress(OSError, RuntimeError):
            sink.close()
