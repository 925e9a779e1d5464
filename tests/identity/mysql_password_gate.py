"""MariaDB proxy whose password check is the test's.

It greets as a server does, requests the password over TLS with `mysql_clear_password`, as RDS does for a
token, and checks it. Then it logs in to the real server as an account without a password and forwards
everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

from kine.background_tasks import BackgroundTasks
from tests.identity.postgres_password_gate import Gate, _pipe

_SSL = 0x800
_TLS_REQUEST = 36  # bytes, with its head
_CONNECT_WITH_DB = 0x8
_LENENC_AUTH = 0x200000
_ATTRIBUTES = 0x100000
_CLEARTEXT = b"\xfemysql_clear_password\0"
_REFUSAL = b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied for user"


class MysqlGate(Gate):
    async def _listen(self) -> int:
        self._tasks = BackgroundTasks()
        listening = socket.create_server((self._address, self.port))
        listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listening))
        return int(listening.getsockname()[1])

    def __exit__(self, *failure: object) -> None:
        self._loop.call_soon_threadsafe(self._accepting.cancel)
        super().__exit__(*failure)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            accepted, _ = await self._loop.sock_accept(listening)
            accepted.setblocking(False)
            self._tasks.start(self._greet(accepted))

    async def _greet(self, accepted: socket.socket) -> None:
        """Serves one client.

        Reads from the socket, as the client starts TLS right after its request, and a stream would buffer
        that.
        """
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            _, greeting = await _packet(server_reader)
            payload = _offering_tls(greeting) if self._tls else greeting
            await self._loop.sock_sendall(accepted, len(payload).to_bytes(3, "little") + b"\0" + payload)
            request = await self._loop.sock_recv(accepted, _TLS_REQUEST)
            asked = len(request) == _TLS_REQUEST and request[:3] == b"\x20\0\0"
            if asked or self._clear:
                reader = asyncio.StreamReader()
                if not asked:
                    reader.feed_data(request)
                protocol = asyncio.StreamReaderProtocol(reader)
                transport, _ = await self._loop.connect_accepted_socket(
                    lambda: protocol, accepted, ssl=self._tls if asked else None
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                self._writers.add(writer)
                await self._between(reader, writer, server_reader, server_writer)
                self._writers.discard(writer)
                writer.close()
            else:
                accepted.close()
        server_writer.close()

    async def _between(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        number, answer = await _packet(reader)
        user, end = _text(answer, 32)
        flags = struct.unpack_from("<I", answer)[0]
        _send(writer, number + 1, _CLEARTEXT)
        _, password = await _packet(reader)
        self._note(password.rstrip(b"\0").decode(), writer)
        if not self._judge(user.decode(), self.presented[-1]):
            _send(writer, number + 3, _REFUSAL)
            await writer.drain()
            return
        database = b""
        if flags & _CONNECT_WITH_DB:
            database, _ = _text(answer, end + 1 + answer[end])
        flags &= ~(_SSL | _LENENC_AUTH | _ATTRIBUTES)
        login = struct.pack("<I", flags) + answer[4:32] + user + b"\0\0"
        if flags & _CONNECT_WITH_DB:
            login += database + b"\0"
        _send(server_writer, 1, login + b"mysql_native_password\0")
        _, verdict = await _packet(server_reader)
        if verdict[0] == 0xFE:  # the plugin again, with a salt: the account has no password
            _send(server_writer, 3, b"")
            _, verdict = await _packet(server_reader)
        _send(writer, number + 3, verdict)
        await asyncio.wait(
            [
                asyncio.create_task(_pipe(reader, server_writer)),
                asyncio.create_task(_pipe(server_reader, writer)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )


def _offering_tls(greeting: bytes) -> bytes:
    """Offers TLS. The lower half of the capabilities follows version, thread, salt and a filler."""
    place = greeting.index(b"\0", 1) + 1 + 4 + 8 + 1
    lower = struct.unpack_from("<H", greeting, place)[0] | _SSL
    return greeting[:place] + struct.pack("<H", lower) + greeting[place + 2 :]


def _text(packet: bytes, start: int) -> tuple[bytes, int]:
    """The text up to a NUL, and the position after it."""
    end = packet.index(b"\0", start)
    return packet[start:end], end + 1


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(4)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "little"))


def _send(writer: asyncio.StreamWriter, number: int, payload: bytes) -> None:
    writer.write(len(payload).to_bytes(3, "little") + bytes([number]) + payload)
