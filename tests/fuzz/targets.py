"""Fuzz targets: all code that reads bytes from the network or text from outside.

A target takes bytes and raises only for a defect. Each has a corpus in `corpus/NAME`, which `test_corpus`
replays in each run of the suite; `python -m tests.fuzz` looks for more inputs, guided by code coverage.
"""

from __future__ import annotations

import asyncio
import atexit
import gzip
from collections.abc import Callable
from contextlib import suppress

from hpack import Decoder as LibraryDecoder
from hpack import HPACKError

from kine import drivers
from kine.drivers.base import DriverError, Options
from kine.etcd.routes import Bounds, Identity, services
from kine.remote.endpoint import parse as parse_etcd
from kine.store import defragmentation
from kine.store.store import Store, StoreSettings
from kine.transport.base import Answer, Call, Limits, Pieces, RpcError, Unary
from kine.transport.http2.connection import Connection
from kine.transport.http2.frames import HEAD, PREFACE
from kine.transport.http2.grpc_framing import MessageReader, timeout
from kine.transport.http2.hpack import BlockError, Decoder, ListTooLargeError
from kine.transport.http2.protocol_detection import DetectedProtocol, detect_protocol
from kine.transport.http2.stream import Http2Stream

MAX_LIST = 64 * 1024
LIMIT = 64 * 1024


# ---- HTTP/2


class Taking:
    """An application that responds to each request with its body."""

    def __init__(self) -> None:
        self.connection = Connection(self, Limits())
        self.sent = bytearray()

    def request(self, stream: Http2Stream) -> None:
        stream.application = bytearray()

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None:
        stream.application += data
        self.connection.release(stream, len(data))
        if ended:
            self.connection.out.respond(stream, b"\x88", bytes(stream.application), b"\x88")

    def reset(self, stream: Http2Stream) -> None: ...

    def drained(self, stream: Http2Stream) -> None: ...

    def receive(self, data: bytes) -> None:
        self.connection.receive(data, 1.0)
        while out := self.connection.out.take():
            self.sent += b"".join(out)


def http2(data: bytes) -> None:
    """A connection's bytes, whole and in pieces: equal output, consistent windows, one frame kept at most."""
    if not data:
        return
    size, data = 1 + data[0], PREFACE + HEAD.pack(0, 0, 4, 0, 0) + data[1:]
    whole, pieces = Taking(), Taking()
    whole.receive(data)
    for begin in range(0, len(data), size):
        pieces.receive(data[begin : begin + size])
    assert whole.sent == pieces.sent
    assert whole.connection.closed == pieces.connection.closed
    connection = whole.connection
    assert len(connection._buffer) <= 9 + 16_384
    window = connection._intake.window
    assert sum(stream.receive.held for stream in connection.streams.values()) <= window.held
    assert window.size + window.held + window.owed == window.limit


def hpack(data: bytes) -> None:
    """Header blocks, one after the other: accepted and decoded as by the hpack library."""
    blocks = []
    while data:
        blocks.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    decode_as_the_library(blocks)


def decode_as_the_library(blocks: list[bytes]) -> None:
    """Decodes one connection's blocks with both decoders: equal headers, up to a block that both refuse."""
    library, ours = LibraryDecoder(MAX_LIST), Decoder(MAX_LIST)
    library.max_allowed_table_size = 4096
    for block in blocks:
        try:
            expected = tuple((bytes(name), bytes(value)) for name, value in library.decode(block, raw=True))
        except (HPACKError, UnicodeDecodeError):
            try:
                ours.decode(block)
            except (BlockError, ListTooLargeError):
                return
            raise
        assert ours.decode(block) == expected


def opening(data: bytes) -> None:
    """The first bytes of a connection: the protocol detected from a prefix stays the same with more bytes."""
    verdicts = [detect_protocol(data[:end]) for end in range(len(data) + 1)]
    settled = [verdict for verdict in verdicts if verdict is not DetectedProtocol.UNKNOWN]
    assert len(set(settled)) <= 1
    assert not settled or verdicts[-1] is settled[0]
    assert len(data) < len(PREFACE) or settled


# ---- gRPC and its messages


def messages(data: bytes) -> None:
    """A request body in pieces; the first byte selects its declared compression."""
    if len(data) < 2:
        return
    encoding = ("", "gzip", "identity", "snappy")[data[0] % 4]
    size, data = 1 + data[1], data[2:]
    inbox = MessageReader(LIMIT, encoding)
    with suppress(RpcError):
        for begin in range(0, len(data), size):
            inbox.feed(data[begin : begin + size])
            while inbox.ready:
                message, taken = inbox.take()
                assert len(message) <= LIMIT
                assert taken >= 5
        assert inbox.wanted <= LIMIT + 5
    with suppress(RpcError):
        assert 0 <= timeout(data.decode("latin-1") or "0S") < 1e12


def gzipped(data: bytes) -> None:
    """A gzip member decompresses to its content, or is refused for its size."""
    packed = gzip.compress(data, 1, mtime=0)
    inbox = MessageReader(LIMIT, "gzip")
    inbox.feed(b"\1" + len(packed).to_bytes(4, "big") + packed)
    with suppress(RpcError):
        assert inbox.take()[0] == data
        assert len(data) <= LIMIT


class _Api:
    """Every unary call on an in-memory log, which is replaced periodically, as keys accumulate."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._calls = 0

    def _begin(self) -> None:
        defragmentation._LEAST = 0.0  # the pause between runs would take too long

        async def begin() -> None:
            driver = drivers.connect("memory://", Options())
            await driver.open()
            self._store = Store(driver, StoreSettings(value_cache_bytes=1024 * 1024))
            await self._store.open()

        self._loop.run_until_complete(begin())
        identity = Identity(1, 2, "kine", "3.6.11", "http", "")
        served = services(self._store, identity, 5.0, Bounds(LIMIT, LIMIT, 100))
        self._routes = sorted(
            (path, route.handler) for path, route in served.routes.items() if isinstance(route, Unary)
        )

    def close(self) -> None:
        if self._calls:
            self._loop.run_until_complete(self._store.close())

    def call(self, number: int, request: bytes) -> None:
        if self._calls % 1000 == 0:
            self.close()
            self._begin()
        self._calls += 1
        path, handler = self._routes[number % len(self._routes)]

        async def answered() -> Answer:
            answer = handler(request, Call(path))
            return answer if isinstance(answer, bytes | Pieces) else await answer

        with suppress(RpcError):
            assert isinstance(self._loop.run_until_complete(answered()), bytes | Pieces)


_api = _Api()
atexit.register(_api.close)


def requests(data: bytes) -> None:
    """A unary call, chosen by the first byte: it returns a response or a status."""
    if data:
        _api.call(data[0], data[1:])


# ---- endpoints

_SCHEMES = ("sqlite", "litestream", "postgres", "postgresql", "mysql", "nats", "jetstream", "memory", "http")
_SECRET = "hunter22secret"


def endpoints(data: bytes) -> None:
    """An endpoint: accepted, or refused with an error that does not contain its password."""
    if not data:
        return
    text = data[1:].decode("utf-8", "replace")
    scheme = _SCHEMES[data[0] % len(_SCHEMES)]
    for endpoint in (f"{scheme}://{text}", f"{scheme}://user:{_SECRET}@{text}", text):
        try:
            if scheme == "http":
                parse_etcd(endpoint)
            else:
                drivers.connect(endpoint, Options())
        except (ValueError, DriverError, OSError) as error:
            _judge(str(error), endpoint)


def _judge(refusal: str, endpoint: str) -> None:
    assert refusal, endpoint
    assert _SECRET not in refusal, endpoint


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (http2, hpack, opening, messages, gzipped, requests, endpoints)
}
