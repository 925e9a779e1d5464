"""PostgreSQL proxy whose password check is the test's.

It requests the password over TLS, as RDS does for a token, checks it, and then forwards the connection to a
real server with `trust` authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

_SSL = 80877103
_GSS = 80877104
_CLEARTEXT = b"R" + struct.pack("!ii", 8, 3)
_REFUSAL = b"SFATAL\0VFATAL\0C28P01\0MPAM authentication failed for user\0\0"


@dataclass(frozen=True)
class Circumstances:
    """The circumstances in which a password was given."""

    encrypted: bool
    certificate: bool  # of the client's


class Gate:
    """`judge(user, password)` decides who may pass. `presented` has every password that was given, in order.

    Without `tls` none is offered. `clear`: the password is requested without TLS, too, if the client wants
    none.
    """

    def __init__(
        self,
        server_port: int,
        tls: ssl.SSLContext | None,
        judge: Callable[[str, str], bool],
        *,
        clear: bool = False,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._server_port = server_port
        self._tls = tls
        self._judge = judge
        self._clear = clear
        self._address = address
        self.circumstances: list[Circumstances] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.presented: list[str] = []
        self.port = port

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        return self

    def __exit__(self, *failure: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    def cut(self) -> None:
        """Breaks every connection, as a failover does."""

        async def cut() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result(60)

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._serve, self._address, self.port)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            await self._admit(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await _packet(reader)
        while struct.unpack_from("!i", start, 4)[0] == _GSS:
            writer.write(b"N")
            start = await _packet(reader)
        if struct.unpack_from("!i", start, 4)[0] == _SSL:
            writer.write(b"S" if self._tls else b"N")
            if self._tls:
                await writer.start_tls(self._tls)
            start = await _packet(reader)
        elif not self._clear:
            return
        words = start[8:].split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        if b"user" not in parameters:
            return  # a cancel request, which is not forwarded
        user = parameters[b"user"].decode()
        writer.write(_CLEARTEXT)
        await reader.readexactly(1)
        password = (await _packet(reader))[4:-1].decode()
        self._note(password, writer)
        if not self._judge(user, password):
            writer.write(b"E" + struct.pack("!i", len(_REFUSAL) + 4) + _REFUSAL)
            await writer.drain()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        server_writer.write(start)
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(_pipe(reader, server_writer)),
                    asyncio.create_task(_pipe(server_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            server_writer.close()

    def _note(self, password: str, writer: asyncio.StreamWriter) -> None:
        encrypted = writer.get_extra_info("ssl_object") is not None
        self.circumstances.append(Circumstances(encrypted, bool(writer.get_extra_info("peercert"))))
        self.presented.append(password)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(struct.unpack("!i", size)[0] - 4)


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while block := await source.read(65536):
            sink.write(block)
            await sink.drain()
