"""gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): messages in a body, status in trailers."""

from __future__ import annotations

import zlib
from urllib.parse import quote_from_bytes

from kine.transport.base import Code, RpcError
from kine.transport.http2.headers import literal

PREFIX = 5  # bytes before a message: a flag, and its length
_CONTENT_TYPE = b"\x0f\x10" + bytes((len(b"application/grpc"),)) + b"application/grpc"  # by its static name
HEAD = b"\x88" + _CONTENT_TYPE  # :status 200
OK = literal(b"grpc-status", b"0")
NOT_GRPC = literal(b":status", b"415") + literal(b"content-type", b"text/plain")
NOT_POST = literal(b":status", b"405") + literal(b"content-type", b"text/plain")
REFUSAL = b"This is the gRPC port of an etcd v3 server; use an etcd client.\n"
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Everything printable but the percent sign goes as it is (PROTOCOL-HTTP2.md, "Status-Message").
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def status(error: RpcError) -> bytes:
    """Trailers for an error."""
    message = quote_from_bytes(error.message.encode("utf-8", "replace"), safe=_PLAIN).encode()
    return literal(b"grpc-status", b"%d" % error.code) + literal(b"grpc-message", message)


def timeout(text: str) -> float:
    """Seconds of a `grpc-timeout`. Raises RpcError."""
    digits = text[:-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8 or text[-1] not in _UNITS:
        raise RpcError(Code.INTERNAL, "malformed grpc-timeout")
    return int(digits) * _UNITS[text[-1]]


def too_large(size: int, limit: int) -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


class Inbox:
    """Takes a body's bytes, gives its messages. Holds at most one message of the largest size allowed."""

    __slots__ = ("_buffer", "_encoding", "_limit")

    def __init__(self, limit: int, encoding: str) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._encoding = encoding

    def feed(self, data: bytes) -> list[tuple[bytes, int]]:
        """The messages that are complete now, and what each took on the wire. Raises RpcError."""
        buffer = self._buffer
        buffer += data
        messages = []
        position = 0
        while len(buffer) - position >= PREFIX:
            length = int.from_bytes(buffer[position + 1 : position + PREFIX], "big")
            if length > self._limit:
                raise too_large(length, self._limit)
            end = position + PREFIX + length
            if end > len(buffer):
                break
            message = bytes(buffer[position + PREFIX : end])
            plain = decompressed(message, buffer[position], self._encoding, self._limit)
            messages.append((plain, PREFIX + length))
            position = end
        del buffer[:position]
        return messages

    @property
    def partial(self) -> bool:
        return bool(self._buffer)


def decompressed(message: bytes, flag: int, encoding: str, limit: int) -> bytes:
    """Raises RpcError."""
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
        plain = inflate.decompress(message, limit + 1)
    except zlib.error:
        raise RpcError(Code.INTERNAL, "grpc: failed to decompress the received message") from None
    if len(plain) > limit:
        raise too_large(len(plain), limit)
    if not inflate.eof:
        raise RpcError(Code.INTERNAL, "grpc: failed to decompress the received message")
    return plain
