"""Bursts of requests, over many connections or streams: each turn of the event loop stays short."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import KEY, MIB, head
from tests.hostile.test_queued_bytes import RANGE, REFUSED, WATCH, created, messages
from tests.transport.raw_http2 import body
from tests.txn_ops import put

if TYPE_CHECKING:
    from tests.hostile.harness import Target

IN_A_TURN = 300  # calls or messages: an allowance of 64, plus what one read of 2 KiB can hold


def test_calls_of_many_connections_at_once(target: Target) -> None:
    calls = 200
    one = pb.RangeRequest(key=KEY).SerializeToString()
    burst = b"".join(head(stream, RANGE) + body(stream, one) for stream in range(1, 2 * calls, 2))
    with target.probed() as probe, ExitStack() as opened:
        wires = [opened.enter_context(target.wire()) for _ in range(32)]
        for wire in wires:
            wire.send(burst)
        probe.answers(5)
        for wire in wires:
            assert len(wire.answers(calls)) == calls
    if target.transport != "grpcio":  # grpcio starts one call in a few turns
        assert target.calls_per_turn <= IN_A_TURN


def test_messages_of_many_streams_at_once(target: Target) -> None:
    streams = 1_000
    with target.probed() as probe, target.wire() as wire:
        wire.send(
            *(head(i, WATCH) + messages(i, created(b"k%d" % i), REFUSED) for i in range(1, 2 * streams, 2))
        )
        answered = sum(1 for _, _ in zip(range(3 * streams), wire.frames(), strict=False))
        probe.answers(5)
        assert answered == 3 * streams
    assert target.messages_per_turn <= IN_A_TURN


def test_long_ranges_that_are_sorted(target: Target) -> None:
    client = target.client()
    for number in range(0, 5_000, 100):
        client.txn([], [put(b"/many/%06d" % each, b"v") for each in range(number, number + 100)])
    calls = 1_000 * target.scale
    one = pb.RangeRequest(
        key=b"/many/",
        range_end=b"/many0",
        limit=1,
        sort_order=pb.RangeRequest.DESCEND,
        sort_target=pb.RangeRequest.MOD,
    ).SerializeToString()
    with target.probed() as probe, target.wire() as wire:
        wire.send(*(head(stream, RANGE) + body(stream, one) for stream in range(1, 2 * calls, 2)))
        probe.answers(20)
    assert target.memory_growth < 32 * MIB
