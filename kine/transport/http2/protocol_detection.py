"""Protocol detection by a connection's first bytes, HTTP/1.1 hand-over, and the peer's name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from kine.transport.http2.frames import PREFACE

# Serves a connection that speaks HTTP/1.1, as etcd's port does for /metrics and /health.
Http1 = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_HTTP1 = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /")
_SHORT_REQUEST = 9  # bytes that suffice to recognize HTTP/1.1


class DetectedProtocol(Enum):
    UNKNOWN = auto()  # more bytes are needed
    HTTP1 = auto()
    OTHER = auto()  # HTTP/2, or input that is an HTTP/2 error


def detect_protocol(data: bytes) -> DetectedProtocol:
    if PREFACE.startswith(data[: len(PREFACE)]):
        return DetectedProtocol.UNKNOWN if len(data) < len(PREFACE) else DetectedProtocol.OTHER
    if _HTTP1.match(data):
        return DetectedProtocol.HTTP1
    return (
        DetectedProtocol.UNKNOWN
        if data[:1].isupper() and len(data) < _SHORT_REQUEST
        else DetectedProtocol.OTHER
    )


def hand_over(transport: asyncio.Transport, serve: Http1, data: bytes) -> None:
    reader = asyncio.StreamReader(64 * 1024)
    protocol = asyncio.StreamReaderProtocol(reader, serve)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(data)


def peer(name: object) -> str:
    """The peer in gRPC's notation, from its socket address."""
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
