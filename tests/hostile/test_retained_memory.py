"""Memory that a client can make the server retain: streams, their messages, watches, names."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from kine.proto import rpc_pb2 as pb
from kine.store.value_cache import varint
from tests.client import prefix_end, refused
from tests.hostile.harness import KIB, MIB, WAIT, await_that, head
from tests.hostile.test_queued_bytes import DIRECTORY, RANGE, SLACK, WATCH, created, fill
from tests.transport.raw_http2 import DATA, END_STREAM, HEADERS, frame

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target
    from tests.transport.raw_http2 import Wire

GZIP = ("grpc-encoding", "gzip")
LARGE = b"k" * 1_000_000
UNKNOWN = b"\x82\x7d" + varint(len(LARGE)) + LARGE  # a field that no message has
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
RANGE_STREAM = "/etcdserverpb.KV/RangeStream"
HEALTH = "/grpc.health.v1.Health/Watch"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
REFLECTION = "/grpc.reflection.v1{}.ServerReflection/ServerReflectionInfo"
NAMED = health.HealthCheckRequest(service=LARGE.decode()).SerializeToString()
DESCRIBED = reflection.ServerReflectionRequest(file_containing_symbol=LARGE.decode()).SerializeToString()
MANY = 300  # streams
FEW = 50  # that fit into grpcio's initial window


def packed(message: bytes) -> bytes:
    """A compressed message on the wire: a thousandth of its size, where it is all one letter."""
    small = gzip.compress(message)
    return b"\1" + len(small).to_bytes(4, "big") + small


def answered(wire: Wire, streams: int) -> dict[int, bytes]:
    """Waits until so many streams have had a response or ended; returns the trailers of the ended ones."""
    heard: dict[int, bytes] = {}
    for got in wire.frames():
        if got.kind == DATA:
            heard.setdefault(got.stream, b"")
        elif got.kind == HEADERS and got.flags & END_STREAM:
            heard[got.stream] = got.payload
        if len(heard) == streams:
            return heard
    raise AssertionError(f"the connection ended after {len(heard)} of {streams} streams were answered")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (KEEP_ALIVE, b"\x08\x01" + UNKNOWN),
        (WATCH, created(b"k") + UNKNOWN),
        (HEALTH, NAMED),
        (REFLECTION.format(""), DESCRIBED),
        (REFLECTION.format("alpha"), DESCRIBED),
    ],
    ids=["keep alive", "watch", "health", "reflection", "reflection alpha"],
)
def test_streams_keep_no_message(start_target: StartTarget, path: str, message: bytes) -> None:
    target = start_target("--max-queued-bytes=64MiB")
    one = packed(message)
    with target.probed() as probe, ExitStack() as stack:
        for _ in range(MANY // FEW):
            wire = stack.enter_context(target.wire())
            wire.send(*(head(i, path, GZIP) + frame(DATA, 0, i, one) for i in range(1, 2 * FEW, 2)))
            answered(wire, FEW)
        probe.answers(5)
    assert target.memory_growth < SLACK + 64 * MIB  # of 300: grpcio has copies of those that are handled


def test_messages_of_streams_that_wait(start_target: StartTarget) -> None:
    """Each needs its key until the end, and its client reads nothing."""
    target = start_target("--max-queued-bytes=16MiB", "--value-cache-bytes=1MiB")
    fill(target.client(), 100 * KIB)
    every = pb.RangeRequest(key=DIRECTORY, range_end=DIRECTORY + b"\xff" + LARGE).SerializeToString()
    one = packed(every)
    with target.probed() as probe, target.wire(window=0) as wire:
        streams = MANY if target.transport != "grpcio" else FEW
        wire.send(*(head(i, RANGE_STREAM, GZIP) + frame(DATA, 1, i, one) for i in range(1, 2 * streams, 2)))
        await_that(lambda: target.metric("kine_kept_refused_total") > 0)
        assert 0 < target.metric("kine_kept_bytes") < 16 * MIB
        probe.answers(5)
    await_that(lambda: target.metric("kine_kept_bytes") == 0)
    assert target.memory_growth < 2 * 16 * MIB + SLACK


def test_names_of_ranges_are_not_remembered(target: Target) -> None:
    client = target.client()
    client.put(b"/a", bytes(100 * KIB))
    client.put(b"/b", bytes(100 * KIB))
    call = client.channel.unary_unary(RANGE)
    with target.probed():
        for number in range(200):
            page = pb.RangeRequest(key=b"/", range_end=b"/z%03d" % number + LARGE, limit=1)
            answer = call(page.SerializeToString(), compression=grpc.Compression.Gzip, timeout=WAIT)
            assert pb.RangeResponse.FromString(answer).more
    assert target.memory_growth < SLACK + 24 * MIB


def refusals(target: Target) -> float:
    return target.metric("kine_kept_refused_total")


def test_streams_over_many_connections(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    connections, streams = (12, 900) if target.transport == "grpcio" else (6, 6_000)
    with target.probed() as probe, ExitStack() as stack:
        for _ in range(connections):
            wire = stack.enter_context(target.wire())
            handled = refusals(target) + target.metric("grpc_server_started_total")
            wire.send(*(head(i, KEEP_ALIVE) for i in range(1, 2 * streams, 2)))
            await_that(
                lambda before=handled: (
                    refusals(target) + target.metric("grpc_server_started_total") >= before + streams
                )
            )
            probe.answers(5)
        await_that(lambda: refusals(target) > streams)
        assert target.metric("kine_kept_bytes") < 16 * MIB + connections * 64 * KIB
        with target.client().watch() as newcomer:  # a new client always gets a small share
            assert not newcomer.create(b"k").canceled
    await_that(lambda: target.metric("kine_kept_bytes") == 0)
    assert target.memory_growth < 3 * 16 * MIB + SLACK


def test_stream_too_many_is_told_why(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=1MiB")
    client = target.client()
    with (
        ExitStack() as stack,
        refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many streams are open, by this client or by all: close some, or raise --max-queued-bytes",
        ),
    ):
        while True:
            stream = stack.enter_context(client.keepalive())
            stream.send(pb.LeaseKeepAliveRequest(ID=1))
            stream.receive()
    await_that(lambda: target.metric("kine_kept_bytes") == 0)
    assert client.put(b"k", b"v").header.revision


def test_heads_of_streams(target: Target) -> None:
    if target.transport == "grpcio":
        pytest.skip("the library takes 16 KiB of them")
    fields = [(f"x-{number}", "v") for number in range(1_000)]
    with target.probed() as probe, target.wire() as wire:
        before = target.metric("kine_kept_bytes")
        wire.send(*(head(i, KEEP_ALIVE, *fields) for i in range(1, 2 * MANY, 2)))
        await_that(lambda: target.metric("kine_kept_bytes") - before > MANY * 100 * KIB)
        probe.answers(5)


def test_watches_of_long_keys_and_ranges(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    client = target.client()
    with target.probed() as probe, client.watch() as one, client.watch() as other:
        kept = 0
        for number in range(100):
            stream = one if number % 2 else other
            answer = stream.create(b"%03d" % number + LARGE, prefix_end(b"%03d" % number + LARGE))
            kept += not answer.canceled
        assert 1 <= kept <= 3
        assert answer.cancel_reason == (
            "etcdserver: the watches and streams of this client, or of all, take the memory that they may: "
            "close some, or raise --max-queued-bytes"
        )
        assert not one.create(b"short").canceled
        probe.answers(5)
        assert target.metric("kine_kept_bytes") > 2 * MIB
        other.close()
        one.close()
        await_that(lambda: target.metric("kine_kept_bytes") == 0)
    assert target.memory_growth < 16 * MIB + SLACK


def test_watches_over_many_connections(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=4MiB")
    with target.probed() as probe, ExitStack() as stack:
        for _ in range(10):
            stream = stack.enter_context(target.client().watch())
            for number in range(1_000):
                stream.ask(b"/w%d" % number)
        await_that(lambda: refusals(target) > 1_000)
        assert target.metric("kine_watchers") < 4 * 1024 + 10 * 64
        probe.answers(5)
