"""A request's head: which header blocks are requests at all (RFC 9113, section 8.3)."""

from __future__ import annotations

from kine.transport.http2.headers import Field

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_UPPERCASE = bytes(range(65, 91))


class MalformedError(Exception):
    """PROTOCOL_ERROR for the stream."""


class Head:
    __slots__ = ("content_length", "headers", "method", "path")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """Raises MalformedError."""
        headers: dict[str, str] = {}
        regular = False
        for name, value in fields:
            if name[:1] == b":":
                if regular or name not in _PSEUDO or name.decode() in headers:
                    raise MalformedError("a pseudo-header that is late, unknown or said twice")
            else:
                regular = True
                _check(name, value)
            text = name.decode("latin-1")
            known = headers.get(text)
            headers[text] = value.decode("latin-1") if known is None else f"{known},{value.decode('latin-1')}"
        if ":scheme" not in headers or not headers.get(":path") or ":method" not in headers:
            raise MalformedError("a pseudo-header is missing")
        self.headers = headers
        self.method = headers[":method"]
        self.path = headers[":path"]
        self.content_length: int | None = None
        length = headers.get("content-length")
        if length is not None:
            if not length.isdigit():
                raise MalformedError("content-length is no number")
            self.content_length = int(length)


def check_trailers(fields: tuple[Field, ...]) -> None:
    """Raises MalformedError."""
    for name, value in fields:
        if name[:1] == b":":
            raise MalformedError("a pseudo-header among the trailers")
        _check(name, value)


def _check(name: bytes, value: bytes) -> None:
    if not name or name.translate(None, _UPPERCASE) != name:
        raise MalformedError("a header name in upper case, or none")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
        raise MalformedError("a header of HTTP/1.1's connections")
