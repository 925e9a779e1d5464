"""Clients that read nothing: the server stops reading from them, and cuts them off if others need memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hpack import Decoder, Encoder

from kine.transport.base import Limits
from kine.transport.byte_budget import ByteBudget, PassiveClient
from kine.transport.http2.active_calls import GrpcStream
from kine.transport.http2.grpc_framing import MessageReader
from tests.transport.raw_http2 import END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Wire, body, frame
from tests.transport.transport_thread import WAIT, Channel, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
POUR, SIZED = "/test.Stream/Pour", "/test.Echo/Sized"
LIMITS = Limits(max_queued_bytes=16 * MIB, drain_timeout=2.0)  # 4 MiB for one connection


def call(stream: int, path: str, message: bytes) -> bytes:
    """As `tests.transport.raw_http2.call`, with the headers that grpcio's server also requires."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
    fields += [("content-type", "application/grpc"), ("te", "trailers")]
    return frame(HEADERS, END_HEADERS, stream, Encoder().encode(fields)) + body(stream, message)


@pytest.fixture
def bounded(transport: str) -> Iterator[Served]:
    running = Served(transport, limits=LIMITS)
    yield running
    running.close()


def asked(wire: Wire, path: str, message: bytes, calls: int) -> None:
    with contextlib.suppress(OSError):  # the server may end it meanwhile
        wire.send(*(call(stream, path, message) for stream in range(1, 2 * calls, 2)))


def closed(wire: Wire) -> None:
    """Waits for the server to end the connection."""
    for _ in wire.frames():
        pass


@pytest.mark.parametrize(("path", "message"), [(SIZED, b"%d" % MIB), (POUR, b"")], ids=["answers", "streams"])
def test_client_that_takes_nothing_is_cut_off(bounded: Served, path: str, message: bytes) -> None:
    with Wire(bounded.address, window=0) as wire, Channel(bounded.address) as others:
        asked(wire, path, message, 20)
        closed(wire)

        assert others.unary("Sized", b"%d" % (8 * MIB)) == bytes(8 * MIB)
    assert bounded.server.budget.closed_slow == 1


def test_calls_that_come_all_at_once_are_all_answered(server: Served) -> None:
    calls = 900  # of each connection; the library cancels some of more than a thousand in all, by default
    statuses = list[str]()
    with contextlib.ExitStack() as opened:
        wires = [opened.enter_context(Wire(server.address)) for _ in range(3)]
        for wire in wires:
            wire.send(*(call(stream, "/test.Echo/Later", b"x") for stream in range(1, 2 * calls, 2)))
        for number, wire in enumerate(wires, 1):
            decoder = Decoder()
            for got in wire.frames():
                if got.kind == HEADERS:
                    fields = dict(decoder.decode(got.payload))
                    statuses += [fields["grpc-status"]] if got.flags & END_STREAM else []
                elif got.kind == RST_STREAM:
                    statuses.append("reset")
                if len(statuses) == number * calls:
                    break
    assert statuses == ["0"] * 3 * calls


def test_client_that_holds_little_stays(bounded: Served) -> None:
    with Wire(bounded.address, window=0) as wire, Channel(bounded.address) as others:
        asked(wire, SIZED, b"1000", 20)
        for _ in range(20):
            assert others.unary("Later", b"x") == b"x"
        wire.send(frame(8, 0, 1, (MIB).to_bytes(4, "big")))

        answered = next(got for got in wire.frames() if got.kind == 0)
    assert len(answered.payload) == 5 + 1000 or answered.payload
    assert bounded.server.budget.closed_slow == 0


def test_answers_wait_for_clients_that_hold_the_room_only_until_these_are_cut_off(bounded: Served) -> None:
    wires = [Wire(bounded.address, window=0) for _ in range(5)]
    with Channel(bounded.address) as others:
        for wire in wires:
            asked(wire, SIZED, b"%d" % (3 * MIB), 2)
        deadline = time.monotonic() + WAIT
        while bounded.server.budget.queued <= 8 * MIB:  # else the others' call might come first
            assert time.monotonic() < deadline
            time.sleep(0.01)

        assert others.unary("Roomy", b"%d" % (14 * MIB), timeout=WAIT) == bytes(14 * MIB)
    for wire in wires:
        wire.socket.close()
    assert bounded.server.budget.closed_slow >= 1


async def test_handler_that_sends_on_without_end_ends_with_its_client() -> None:
    """On grpcio a failed write is the first sign that the client has gone: the loop must continue."""
    pytest.importorskip("grpc")
    from kine.fair_queue import FairTurns
    from kine.transport.grpcio_peers import GrpcioPeers
    from kine.transport.grpcio_server import GrpcStream as Stream

    async def gone(message: bytes) -> None:
        raise ConnectionError

    async def pour() -> None:
        clients = GrpcioPeers(ByteBudget(64 * MIB))
        context = SimpleNamespace(write=gone)
        stream = Stream(context, clients.begin("ipv4:127.0.0.1:1"), FairTurns())  # type: ignore[arg-type]
        sent = 0
        while sent < 1_000_000:  # without end, for a client that would wait
            stream.send(bytes(64 * 1024))
            sent += 1
            if stream.full:
                await stream.drain()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(pour())


def test_stream_that_is_over_is_not_full_whatever_its_connection_holds() -> None:
    account = ByteBudget(1).account(PassiveClient())
    shell, http = SimpleNamespace(account=account), SimpleNamespace(queued=0, local_closed=False)
    stream = GrpcStream(shell, http, MessageReader(1, ""))  # type: ignore[arg-type]
    account.add(2)
    assert stream.full

    http.local_closed = True
    assert not stream.full
    asyncio.run(asyncio.wait_for(stream.drain(), WAIT))


def test_what_a_client_has_left_behind_is_forgotten(bounded: Served) -> None:
    with Wire(bounded.address, window=0) as wire:
        asked(wire, SIZED, b"1000", 20)
    with Channel(bounded.address) as others:
        while bounded.server.budget.queued:
            others.unary("Later", b"x")

    assert not bounded.server.budget.waiting


def test_requests_under_way_keep_their_part_of_the_window(server: Served, transport: str) -> None:
    if transport == "grpcio":
        pytest.skip("the library's own flow control takes in whatever comes")
    with Wire(server.address) as wire:
        large = b"held".ljust(60_000, b"-")
        asked(wire, "/test.Echo/Hang", large, 1_300)  # 74 MiB, more than a client may send unanswered
        frames = list(wire.frames())

    assert frames[-1].kind == GOAWAY
    assert b"more than the connection's window" in frames[-1].payload
