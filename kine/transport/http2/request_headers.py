"""Request headers: parsing and validation of a request's header fields (RFC 9113, section 8.3)."""

from __future__ import annotations

from kine.transport.http2.hpack import Field

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_CTLS_AND_UPPERCASE = bytes((*range(0x21), *range(0x41, 0x5B), *range(0x7F, 0x100))) + b":"
_LINE_ENDS = b"\0\r\n"
_HEADS = 512  # cached heads, for the whole process: clients send a few over and over
_SHORT = 4096  # maximum bytes of a cached head
_FIELD = 100  # bytes of overhead for each field

_heads: dict[tuple[Field, ...], RequestHead] = {}


def head_of(fields: tuple[Field, ...]) -> RequestHead:
    """The request head of these fields, cached if it is small. Raises MalformedError."""
    head = _heads.get(fields)
    if head is None:
        head = RequestHead(fields)
        size = sum(_FIELD + len(name) + len(value) for name, value in fields)
        if size <= _SHORT:
            if len(_heads) >= _HEADS:
                _heads.clear()
            _heads[fields] = head
        else:
            head.size = size
    return head


class MalformedError(Exception):
    """PROTOCOL_ERROR for the stream."""


class RequestHead:
    __slots__ = ("content_length", "headers", "method", "path", "size")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """Raises MalformedError."""
        headers: dict[str, str] = {}
        regular = False
        for name, value in fields:
            if name[:1] == b":":
                if regular or name not in _PSEUDO or name.decode() in headers:
                    raise MalformedError("a pseudo-header that is late, unknown or said twice")
                _check_value(value)
            else:
                regular = True
                _check(name, value)
            text = name.decode("latin-1")
            known = headers.get(text)
            headers[text] = value.decode("latin-1") if known is None else f"{known},{value.decode('latin-1')}"
        if ":scheme" not in headers or not headers.get(":path") or ":method" not in headers:
            raise MalformedError("a pseudo-header is missing")
        self.size = 0  # bytes in memory; 0 if it is cached, as streams share it
        self.headers = headers
        self.method = headers[":method"]
        self.path = headers[":path"]
        self.content_length: int | None = None
        length = headers.get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise MalformedError("content-length is no number")
            self.content_length = int(length)


def check_trailers(fields: tuple[Field, ...]) -> None:
    """Raises MalformedError."""
    for name, value in fields:
        if name[:1] == b":":
            raise MalformedError("a pseudo-header among the trailers")
        _check(name, value)


def _check(name: bytes, value: bytes) -> None:
    if not name or name.translate(None, _CTLS_AND_UPPERCASE) != name:
        raise MalformedError("a header name in upper case, of other bytes than a name has, or none")
    _check_value(value)
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
        raise MalformedError("a header of HTTP/1.1's connections")


def _check_value(value: bytes) -> None:
    if value.translate(None, _LINE_ENDS) != value or value.strip(b" \t") != value:
        raise MalformedError("a header value with a line's end in it, or with space around it")
