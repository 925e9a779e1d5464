"""A local TLS relay for `--skip-verify`: TLS without certificate verification, which grpcio does not offer.

grpcio connects in plain text to a Unix socket that only this process's user can open. The relay forwards each
connection to etcd over TLS by Python's ssl module.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from typing import TYPE_CHECKING

from kine.drivers.base import UnavailableError

if TYPE_CHECKING:
    from kine.drivers.base import Options
    from kine.remote.endpoint import EtcdEndpoint

_BLOCK = 256 * 1024
_CONNECT_TIMEOUT = 5.0


class InsecureTlsRelay:
    def __init__(self, endpoint: EtcdEndpoint, options: Options) -> None:
        self._endpoint = endpoint
        self._options = options
        self._directory = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.trouble = ""  # the last connection's error: grpcio sees only that it was closed

    @property
    def target(self) -> str:
        return f"unix:{self._directory}/etcd"

    async def start(self) -> None:
        """Starts to listen. Raises OSError, ssl.SSLError when a TLS file cannot be used, UnavailableError."""
        self._context()
        try:
            self._directory = tempfile.mkdtemp(prefix="kine-")  # mode 0700
        except OSError as error:
            raise UnavailableError(
                f"no place for a socket of kine's own ({error.strerror}); name a writable directory in TMPDIR"
            ) from None
        self._server = await asyncio.start_unix_server(self._serve, f"{self._directory}/etcd")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._directory:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _context(self) -> ssl.SSLContext:
        """A TLS context. It is made for each connection, so that the next one uses a renewed certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        if self._options.cert_file:
            context.load_cert_chain(self._options.cert_file, self._options.key_file, password=lambda: b"")
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                there = await asyncio.open_connection(
                    self._endpoint.host, self._endpoint.port, ssl=self._context(), limit=_BLOCK
                )
            self.trouble = ""
            try:
                await self._carry((reader, writer), there)
            finally:
                there[1].transport.abort()
        except asyncio.CancelledError:
            pass
        except (OSError, TimeoutError) as error:  # grpcio sees its connection closed, and reconnects
            self.trouble = _named(error)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _carry(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        ways = [
            asyncio.create_task(_pump(here[0], there[1])),
            asyncio.create_task(_pump(there[0], here[1])),
        ]
        try:
            # Whichever side ends, the connection is over: HTTP/2 has no half-closed connections.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


def _named(error: OSError | TimeoutError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    return str(error) or f"no answer within {_CONNECT_TIMEOUT:.0f} s"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
