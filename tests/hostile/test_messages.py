"""Messages that cost more to receive than to send."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.hostile.harness import MIB, await_that, request
from tests.transport.raw_http2 import DATA, END_STREAM, HEADERS, OK, RST_STREAM, Wire, body, frame

if TYPE_CHECKING:
    from tests.hostile.harness import Target

RANGE, PUT = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put"
GZIP = ("grpc-encoding", "gzip")
INTERNAL = b"grpc-status\x0213"
# Bytes that may be sent at once: grpcio's initial windows are small.
SIZES = {"http2": 2 * MIB - 1024, "grpcio": 32 * 1024}


def compressed(stream: int, message: bytes) -> bytes:
    """A call whose message is flagged as compressed."""
    whole = bytearray(request(stream, RANGE, message, GZIP))
    at = whole.index(b"\0" + len(message).to_bytes(4, "big"))
    whole[at] = 1
    return bytes(whole)


def ended(wire: Wire, count: int) -> list[bytes]:
    """How the next streams end: trailers, or b"" for a reset."""
    found: list[bytes] = []
    for got in wire.frames():
        if got.kind == RST_STREAM:
            found.append(b"")
        elif got.kind == HEADERS and got.flags & END_STREAM:
            found.append(got.payload)
        if len(found) == count:
            break
    return found


def test_message_of_many_gzip_members_costs_no_more_than_one(target: Target) -> None:
    empty = gzip.compress(b"", mtime=0)
    members = SIZES[target.transport] // len(empty)
    with target.probed() as probe, target.wire() as wire:
        wire.send(compressed(1, gzip.compress(b"\x0a\x01k", mtime=0)))
        [one] = ended(wire, 1)
        for stream in range(3, 3 + 8 * target.scale, 2):
            wire.send(compressed(stream, empty * members))
            [many] = ended(wire, 1)
            assert target.transport == "grpcio" or INTERNAL in many
        probe.answers(10)

    assert OK in one
    assert target.memory_growth < 64 * MIB


def test_messages_cut_short_leave_nothing(target: Target) -> None:
    """An exception object that was raised repeatedly once kept every message alive that had caused it."""
    if target.transport == "grpcio":
        pytest.skip("it ends such a call without a word")
    half = bytes(min(SIZES[target.transport], MIB) // 2)
    with target.probed(), target.wire() as wire:
        for number in range(100 * target.scale):
            stream = 1 + 2 * number
            head = request(stream, PUT, b"", flags=0)[: -len(body(stream, b""))]
            whole = b"\0" + (2 * len(half)).to_bytes(4, "big") + half
            pieces = [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]
            wire.send(head, *(frame(DATA, 0, stream, piece) for piece in pieces))
            wire.send(frame(DATA, END_STREAM, stream))
            assert OK not in ended(wire, 1)[0]

    await_that(lambda: target.page("/healthz")[0] == 200)
    assert target.memory_growth < 32 * MIB
