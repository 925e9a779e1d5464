"""PostgreSQL proxy with GSSAPI encryption that sends packets of the maximum size, as servers from 17 on do.

It implements the encryption itself, and forwards what it decrypts to a real server with `trust`
authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from pathlib import Path
from typing import Any, Self

from tests.identity.postgres_password_gate import _packet

_GSS = 80877104
_LARGEST = 16384 - 4  # of libpq's buffer, after the length
_GATHER = 0.003  # seconds for a packet to fill up


class GssGate:
    def __init__(self, server_port: int, keytab: Path) -> None:
        import gssapi  # here: without it the tests that need it are skipped, and the others run

        self._server_port = server_port
        self._credentials = gssapi.Credentials(usage="accept", store={"keytab": f"FILE:{keytab}"})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(60)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *failure: object) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._pass_on(reader, writer)
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if struct.unpack_from("!i", await _packet(reader), 4)[0] != _GSS:
            return  # a cancel request, which is not forwarded
        writer.write(b"G")
        import gssapi

        context = gssapi.SecurityContext(creds=self._credentials, usage="accept")
        while not context.complete:
            token = context.step(await _token(reader))
            if token:
                writer.write(struct.pack("!i", len(token)) + token)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(_decrypt(reader, server_writer, context)),
                    asyncio.create_task(_encrypt(server_reader, writer, context)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            server_writer.close()


async def _token(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return await reader.readexactly(struct.unpack("!i", size)[0])


async def _decrypt(source: asyncio.StreamReader, sink: asyncio.StreamWriter, context: Any) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            sink.write(context.unwrap(await _token(source)).message)
            await sink.drain()


async def _encrypt(source: asyncio.StreamReader, sink: asyncio.StreamWriter, context: Any) -> None:
    room = context.get_wrap_size_limit(_LARGEST, True)
    with contextlib.suppress(OSError):
        while block := await source.read(room):
            if len(block) < room:
                await asyncio.sleep(_GATHER)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        block += await source.read(room - len(block))
            packet = context.wrap(block, True).message
            sink.write(struct.pack("!i", len(packet)) + packet)
            await sink.drain()
