"""Protocol violations and the GOAWAY or RST_STREAM each gets (RFC 9113, RFC 7541), one line per rule."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hpack import Encoder

from kine.transport.base import Limits
from kine.transport.http2.connection import Connection
from kine.transport.http2.frames import HEAD, PREFACE
from kine.transport.http2.stream import Http2Stream
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11
GOAWAY, RST, NOTHING = "GOAWAY", "RST_STREAM", ""
HEAD_FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a/b"),
    ("content-type", "application/grpc"),
]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def block(*fields: tuple[str, str], base: Any = HEAD_FIELDS) -> bytes:
    return Encoder().encode([*base, *fields])


def data(payload: bytes = b"", flags: int = 0, stream: int = 1) -> bytes:
    return frame(0, flags, stream, payload)


def headers(payload: bytes | None = None, flags: int = 4, stream: int = 1) -> bytes:
    return frame(1, flags, stream, block() if payload is None else payload)


def settings(*chosen: tuple[int, int]) -> bytes:
    return frame(4, payload=b"".join(n.to_bytes(2, "big") + v.to_bytes(4, "big") for n, v in chosen))


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


ACK = frame(4, 1)
OPEN = headers()
ENDED = headers(flags=5)
CANCEL = frame(3, stream=1, payload=number(8))

RULES = [
    # frames and their sizes (4.1, 4.2, 6)
    ("frame above the size allowed", data(bytes(16_385)), GOAWAY, SIZE),
    ("unknown frame", frame(0x16, 0xFF, 7, b"x"), NOTHING, 0),
    ("reserved bit set", frame(6, 0, 0x80000000, bytes(8)), NOTHING, 0),
    ("unknown flags", headers(flags=4 | 0x52), NOTHING, 0),
    # DATA (6.1)
    ("DATA on stream 0", data(stream=0), GOAWAY, PROTOCOL),
    ("DATA on an idle stream", data(), GOAWAY, PROTOCOL),
    ("DATA with too much padding", OPEN + data(b"\x05abc", 8), GOAWAY, PROTOCOL),
    ("DATA padded without a length", OPEN + data(b"", 8), GOAWAY, SIZE),
    ("DATA after END_STREAM", ENDED + data(b"x"), RST, CLOSED),
    ("DATA after the client's reset", OPEN + CANCEL + data(b"x"), RST, CLOSED),
    ("DATA above the stream's window", OPEN + data(bytes(16_384)) * 5, RST, FLOW),
    # HEADERS (6.2)
    ("HEADERS on stream 0", headers(stream=0), GOAWAY, PROTOCOL),
    ("HEADERS on an even stream", headers(stream=2), GOAWAY, PROTOCOL),
    ("HEADERS with too much padding", headers(b"\xff" + block(), 12), GOAWAY, PROTOCOL),
    ("HEADERS too short for a priority", headers(b"abc", 4 | 32), GOAWAY, SIZE),
    ("HEADERS on a stream below the last", headers(stream=3) + OPEN,
     GOAWAY, CLOSED),
    ("HEADERS that depend on themselves", headers(number(1) + b"\1" + block(), 4 | 32), RST, PROTOCOL),
    ("HEADERS after END_STREAM", ENDED + headers(block(base=[]), 5), RST, CLOSED),
    ("trailers without END_STREAM", OPEN + headers(block(("a", "b"), base=[]), 4), RST, PROTOCOL),
    ("trailers with a pseudo-header", OPEN + headers(block((":path", "/"), base=[]), 5), RST, PROTOCOL),
    ("trailers", OPEN + headers(block(("a", "b"), base=[]), 5), NOTHING, 0),
    # CONTINUATION (6.10)
    ("CONTINUATION of nothing", frame(9, 4, 1, b""), GOAWAY, PROTOCOL),
    ("CONTINUATION after END_HEADERS", OPEN + frame(9, 4, 1, b""), GOAWAY, PROTOCOL),
    ("CONTINUATION on another stream", headers(flags=0) + frame(9, 4, 3, b""), GOAWAY, PROTOCOL),
    ("a frame within a header block", headers(flags=0) + frame(6, 0, 0, bytes(8)), GOAWAY, PROTOCOL),
    ("an unknown frame within a header block", headers(flags=0) + frame(0x16), GOAWAY, PROTOCOL),
    ("CONTINUATION in pieces", headers(block()[:3], 0) + frame(9, 4, 1, block()[3:]), NOTHING, 0),
    ("CONTINUATION flood (CVE-2024-27316)", headers(flags=0) + frame(9, 0, 1) * 40, GOAWAY, CALM),
    ("a header block without end", headers(flags=0) + frame(9, 0, 1, bytes(16_384)) * 4, GOAWAY, CALM),
    # PRIORITY (6.3), RST_STREAM (6.4)
    ("PRIORITY on stream 0", frame(2, payload=bytes(5)), GOAWAY, PROTOCOL),
    ("PRIORITY of four bytes", OPEN + frame(2, 0, 1, bytes(4)), RST, SIZE),
    ("PRIORITY of four bytes on an idle stream", frame(2, 0, 1, bytes(4)), GOAWAY, SIZE),
    ("PRIORITY on an idle stream", frame(2, 0, 9, bytes(5)), NOTHING, 0),
    ("PRIORITY on itself", OPEN + frame(2, 0, 1, number(1) + b"\0"), RST, PROTOCOL),
    ("RST_STREAM on stream 0", frame(3, payload=number(8)), GOAWAY, PROTOCOL),
    ("RST_STREAM on an idle stream", CANCEL, GOAWAY, PROTOCOL),
    ("RST_STREAM of three bytes", OPEN + frame(3, 0, 1, bytes(3)), GOAWAY, SIZE),
    # SETTINGS (6.5)
    ("SETTINGS on a stream", frame(4, 0, 1), GOAWAY, PROTOCOL),
    ("SETTINGS of five bytes", frame(4, payload=bytes(5)), GOAWAY, SIZE),
    ("SETTINGS ACK with settings", frame(4, 1, 0, bytes(6)), GOAWAY, SIZE),
    ("SETTINGS ACK of nothing", ACK, GOAWAY, PROTOCOL),
    ("ENABLE_PUSH of 2", settings((2, 2)), GOAWAY, PROTOCOL),
    ("INITIAL_WINDOW_SIZE of 2^31", settings((4, 2**31)), GOAWAY, FLOW),
    ("MAX_FRAME_SIZE of 16383", settings((5, 16_383)), GOAWAY, PROTOCOL),
    ("MAX_FRAME_SIZE of 2^24", settings((5, 2**24)), GOAWAY, PROTOCOL),
    ("an unknown setting", settings((0xFF, 1)), NOTHING, 0),
    ("SETTINGS that overflow a stream's window",
     OPEN + frame(8, 0, 1, number(2**30)) + settings((4, 2**31 - 1)), GOAWAY, FLOW),
    # PUSH_PROMISE (8.4), PING (6.7), GOAWAY (6.8)
    ("PUSH_PROMISE", OPEN + frame(5, 4, 1, number(2) + block()), GOAWAY, PROTOCOL),
    ("PING on a stream", frame(6, 0, 1, bytes(8)), GOAWAY, PROTOCOL),
    ("PING of six bytes", frame(6, 0, 0, bytes(6)), GOAWAY, SIZE),
    ("GOAWAY on a stream", frame(7, 0, 1, bytes(8)), GOAWAY, PROTOCOL),
    ("GOAWAY of four bytes", frame(7, 0, 0, bytes(4)), GOAWAY, SIZE),
    # WINDOW_UPDATE (6.9)
    ("WINDOW_UPDATE of three bytes", frame(8, 0, 0, bytes(3)), GOAWAY, SIZE),
    ("WINDOW_UPDATE of 0", frame(8, 0, 0, bytes(4)), GOAWAY, PROTOCOL),
    ("WINDOW_UPDATE of 0 on a stream", OPEN + frame(8, 0, 1, bytes(4)), RST, PROTOCOL),
    ("WINDOW_UPDATE on an idle stream", frame(8, 0, 1, number(1)), GOAWAY, PROTOCOL),
    ("WINDOW_UPDATE above 2^31-1", frame(8, 0, 0, number(2**31 - 1)), GOAWAY, FLOW),
    ("WINDOW_UPDATE above 2^31-1 on a stream", OPEN + frame(8, 0, 1, number(2**31 - 1)), RST, FLOW),
    ("WINDOW_UPDATE after the client's reset", OPEN + CANCEL + frame(8, 0, 1, number(1)), NOTHING, 0),
    # requests (8.2, 8.3)
    *((f"a request {what}", headers(block(*more, base=base)), RST, PROTOCOL) for what, more, base in (
        ("without :method", [], HEAD_FIELDS[1:]),
        ("without :scheme", [], HEAD_FIELDS[:1] + HEAD_FIELDS[2:]),
        ("without :path", [], HEAD_FIELDS[:2]),
        ("with an empty :path", [(":path", "")], HEAD_FIELDS[:2]),
        ("with :path twice", [(":path", "/")], HEAD_FIELDS[:3]),
        ("with an unknown pseudo-header", [(":x", "y")], HEAD_FIELDS[:3]),
        ("with a response's pseudo-header", [(":status", "200")], HEAD_FIELDS[:3]),
        ("with a late pseudo-header", [(":authority", "x")], HEAD_FIELDS),
        ("with upper case", [("Name", "x")], HEAD_FIELDS),
        ("with an empty name", [("", "x")], HEAD_FIELDS),
        ("with a space in a name", [("a b", "x")], HEAD_FIELDS),
        ("with a colon in a name", [("a:b", "x")], HEAD_FIELDS),
        ("with a line's end in a value", [("a", "b\r\nc: d")], HEAD_FIELDS),
        ("with NUL in a value", [("a", "b\0")], HEAD_FIELDS),
        ("with space around a value", [("a", " b")], HEAD_FIELDS),
        ("with connection", [("connection", "close")], HEAD_FIELDS),
        ("with transfer-encoding", [("transfer-encoding", "chunked")], HEAD_FIELDS),
        ("with te other than trailers", [("te", "gzip")], HEAD_FIELDS),
        ("with content-length of no digits", [("content-length", "x")], HEAD_FIELDS),
        ("with content-length of other digits", [("content-length", "\u00b2")], HEAD_FIELDS),
        ("with content-length of 5000 digits", [("content-length", "9" * 5000)], HEAD_FIELDS),
    )),
    ("a body shorter than content-length",
     headers(block(("content-length", "2"))) + data(b"x", 1), RST, PROTOCOL),
    ("a body longer than content-length",
     headers(block(("content-length", "2"))) + data(b"xyz", 1), RST, PROTOCOL),
    # header blocks (RFC 7541)
    ("HPACK: index 0", headers(b"\x80"), GOAWAY, COMPRESSION),
    ("HPACK: index of no field", headers(b"\xff\x80\x01"), GOAWAY, COMPRESSION),
    ("HPACK: an integer too large", headers(b"\xff" + b"\xff" * 9 + b"\x01"), GOAWAY, COMPRESSION),
    ("HPACK: a block cut short", headers(b"\0\5abc"), GOAWAY, COMPRESSION),
    ("HPACK: Huffman padding of 8 bits", headers(b"\0\1a\x83\x1c\x64\xff"), GOAWAY, COMPRESSION),
    ("HPACK: Huffman padding of zeros", headers(b"\0\1a\x81\x18"), GOAWAY, COMPRESSION),
    ("HPACK: Huffman with EOS", headers(b"\0\1a\x84\xff\xff\xff\xff"), GOAWAY, COMPRESSION),
    ("HPACK: a table above 4096", headers(b"\x3f\xe2\x1f" + block()), GOAWAY, COMPRESSION),
    ("HPACK: a late table size", headers(block() + b"\x20"), GOAWAY, COMPRESSION),
    ("more headers than announced", headers(block(*[("a", "x" * 4000)] * 20)[:16_384], 4), RST, CALM),
    # floods
    ("PING flood (CVE-2019-9512)", frame(6, 0, 0, bytes(8)) * 5, GOAWAY, CALM),
    ("reset flood (CVE-2019-9514)",
     b"".join(headers(block(base=[]), stream=n) for n in range(1, 4200, 2)), GOAWAY, CALM),
    ("made resets (CVE-2025-8671)",
     b"".join(headers(stream=n) + frame(8, 0, n, bytes(4)) for n in range(1, 4200, 2)), GOAWAY, CALM),
    ("rapid reset (CVE-2023-44487)",
     b"".join(headers(stream=n) + frame(3, 0, n, number(8)) for n in range(1, 4200, 2)), GOAWAY, CALM),
    ("SETTINGS flood (CVE-2019-9515)", settings() * 150, GOAWAY, CALM),
    ("empty DATA flood (CVE-2019-9518)", OPEN + data() * 10_001, GOAWAY, CALM),
    ("PRIORITY flood (CVE-2019-9513)", frame(2, 0, 1, bytes(5)) * 10_001, GOAWAY, CALM),
    ("WINDOW_UPDATE flood (CVE-2019-9511)", frame(8, 0, 0, number(1)) * 20_001, GOAWAY, CALM),
    ("unknown frames without end", frame(0x16) * 10_001, GOAWAY, CALM),
    ("acknowledged pings without end", frame(6, 1, 0, bytes(8)) * 10_001, GOAWAY, CALM),
    ("GOAWAY without end", frame(7, 0, 0, bytes(8)) * 10_001, GOAWAY, CALM),
]  # fmt: skip


class Silent:
    """An application that accepts requests and responds to none."""

    def request(self, stream: Http2Stream) -> None: ...

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None: ...

    def reset(self, stream: Http2Stream) -> None: ...

    def drained(self, stream: Http2Stream) -> None: ...


def told(connection: Connection) -> list[tuple[str, int]]:
    """The GOAWAY and RST_STREAM frames sent, with their codes."""
    found, out, position = [], b"".join(connection.out.take()), 0
    while position < len(out):
        high, low, kind, _, _ = HEAD.unpack_from(out, position)
        payload = out[position + 9 : position + 9 + (high << 8 | low)]
        position += 9 + len(payload)
        if kind == 3:
            found.append((RST, int.from_bytes(payload, "big")))
        elif kind == 7:
            found.append((GOAWAY, int.from_bytes(payload[4:8], "big")))
    return found


@pytest.mark.parametrize(("sent", "kind", "code"), [rule[1:] for rule in RULES], ids=[r[0] for r in RULES])
def test_rule(sent: bytes, kind: str, code: int) -> None:
    connection = Connection(Silent(), Limits())
    connection.receive(PREFACE + settings() + ACK, 0.0)
    connection.receive(sent, 0.1)

    answers = told(connection)

    assert (answers[-1] if answers else (NOTHING, 0)) == (kind, code)
    assert connection.closed == (kind == GOAWAY)


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSX", PREFACE + frame(6, 0, 0, bytes(8)), PREFACE + ACK],
    ids=["TLS", "typo", "no SETTINGS", "ACK first"],
)
def test_connection_must_begin_with_preface_and_settings(sent: bytes) -> None:
    connection = Connection(Silent(), Limits())

    connection.receive(sent, 0.0)

    assert told(connection) == [(GOAWAY, PROTOCOL)]


def test_stream_above_the_limit_is_refused() -> None:
    connection = Connection(Silent(), Limits(max_concurrent_streams=1))
    connection.receive(PREFACE + settings() + OPEN + headers(stream=3), 0.0)

    assert told(connection) == [(RST, REFUSED)]
    assert list(connection.streams) == [1]


@pytest.mark.skipif(not shutil.which("h2spec"), reason="h2spec is not installed")
def test_h2spec(tmp_path: Path) -> None:
    instance = start_kine("memory://", "http2", tmp_path)
    host, _, port = instance.address.rpartition(":")
    try:
        run = subprocess.run(
            ["h2spec", "generic", "http2", "hpack", "-h", host, "-p", port, "-o", "2"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        instance.stop()

    assert run.returncode == 0, run.stdout[-3000:]
    sys.stdout.write(run.stdout[-200:])
