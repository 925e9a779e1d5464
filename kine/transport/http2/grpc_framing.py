"""gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): messages in a body, status in trailers."""

from __future__ import annotations

import zlib
from urllib.parse import quote_from_bytes

from kine.transport.base import Code, Page, RpcError
from kine.transport.http2.hpack import literal

PREFIX = 5  # bytes before a message: the compressed flag and the length
UNPACKED = 32 * 1024  # bytes of growth in decompression that cost about as much as a call
UNREADABLE = 16  # cost, in calls, of a message that cannot be decompressed, or not completely
_CONTENT_TYPE = b"\x0f\x10" + bytes((len(b"application/grpc"),)) + b"application/grpc"  # static table name
HEAD = b"\x88" + _CONTENT_TYPE  # :status 200
OK = literal(b"grpc-status", b"0")
NOT_GRPC = literal(b":status", b"415") + literal(b"content-type", b"text/plain")
NOT_POST = literal(b":status", b"405") + literal(b"content-type", b"text/plain")
REFUSAL = b"This is the gRPC port of an etcd v3 server; use an etcd client.\n"
_LONGEST = 6_000  # maximum bytes of a status message
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Printable characters other than the percent sign are not encoded (PROTOCOL-HTTP2.md, "Status-Message").
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def page_head(page: Page) -> bytes:
    """The header block of a response that is not gRPC."""
    fields = (
        (b":status", b"%d" % page.status),
        (b"content-type", page.content_type.encode()),
        (b"content-length", b"%d" % len(page.body)),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    )
    return b"".join(literal(name, value) for name, value in fields)


def is_grpc(content_type: str) -> bool:
    return content_type.startswith("application/grpc") and content_type[16:17] in ("", "+", ";")


def status(error: RpcError) -> bytes:
    """Trailers for an error."""
    message = quote_from_bytes(error.message.encode("utf-8", "replace"), safe=_PLAIN).encode()
    # It may quote what the client sent, and must fit in a frame and clients' limits.
    if len(message) > _LONGEST:
        whole = message[: _LONGEST - 2]
        message = whole + message[_LONGEST - 2 : _LONGEST].partition(b"%")[0]
    return literal(b"grpc-status", b"%d" % error.code) + literal(b"grpc-message", message)


def timeout(text: str) -> float:
    """A `grpc-timeout` in seconds. Raises RpcError."""
    digits = text[:-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8 or text[-1] not in _UNITS:
        raise RpcError(Code.INTERNAL, "malformed grpc-timeout")
    return int(digits) * _UNITS[text[-1]]


def too_large(size: int, limit: int) -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


class MessageReader:
    """Splits a body into gRPC messages. Buffers at most what the stream's window lets in."""

    __slots__ = ("_buffer", "_encoding", "_limit", "_size")

    def __init__(self, limit: int, encoding: str) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._encoding = encoding
        self._size = 0  # of the first message with its prefix; 0: not known yet

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def wanted(self) -> int:
        """Size of the first message on the wire; 0 while that is unknown. Raises RpcError."""
        if not self._size and len(self._buffer) >= PREFIX:
            length = int.from_bytes(self._buffer[1:PREFIX], "big")
            if length > self._limit:
                raise too_large(length, self._limit)
            self._size = PREFIX + length
        return self._size

    @property
    def ready(self) -> bool:
        """True if the first message is complete. Raises RpcError."""
        return 0 < self.wanted <= len(self._buffer)

    def __len__(self) -> int:
        return len(self._buffer)

    def take(self) -> tuple[bytes, int]:
        """The first message, which must be ready, and its size on the wire. Raises RpcError."""
        size, self._size = self._size, 0
        flag, message = self._buffer[0], bytes(self._buffer[PREFIX:size])
        del self._buffer[:size]
        return decompressed(message, flag, self._encoding, self._limit), size


def decompressed(message: bytes, flag: int, encoding: str, limit: int) -> bytes:
    """The message without its compression, if the flag is set. Raises RpcError."""
    if not flag:
        return message
    if flag != 1:
        raise RpcError(Code.INTERNAL, "malformed message prefix")
    if encoding != "gzip":
        if encoding in ("", "identity"):
            raise RpcError(Code.INTERNAL, "a compressed message without grpc-encoding")
        raise RpcError(
            Code.UNIMPLEMENTED, f"grpc: Decompressor is not installed for grpc-encoding {encoding!r}"
        )
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        whole = inflate.decompress(message, limit + 1)
    except zlib.error:
        raise _unreadable() from None
    if len(whole) > limit:
        raise too_large(len(whole), limit)
    # Only one gzip member, as every gRPC client sends: each of many would cost a copy of the rest.
    if not inflate.eof or inflate.unused_data:
        raise _unreadable()
    return whole


def _unreadable() -> RpcError:
    return RpcError(Code.INTERNAL, "grpc: failed to decompress the received message")
