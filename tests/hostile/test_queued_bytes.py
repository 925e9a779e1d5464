"""Responses that a client requests and does not read: bounded by --max-queued-bytes, whatever is queued."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import prefix_end, refused
from tests.hostile.harness import KIB, MIB, WAIT, await_that, head
from tests.transport.raw_http2 import (
    DATA,
    RST_STREAM,
    Wire,
    body,
    frame,
    prefixed,
)
from tests.txn_ops import get, nested, put

if TYPE_CHECKING:
    from tests.client import Client
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

WATCH, RANGE, TXN = "/etcdserverpb.Watch/Watch", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn"
DIRECTORY = b"/data/"
VALUES = 200  # keys in it
STREAMS = 900  # `--transport grpcio` ends a connection that opens more than a thousand
TOO_MUCH_WORK = (
    "etcdserver: the ranges that the transaction compares and deletes hold more than 250000 keys, "
    "each whose value is compared counted thrice: make several transactions of it"
)
SLACK = 40 * MIB  # of memory: what the allocator keeps, and rows and frames on their way


def messages(stream: int, *sent: bytes) -> bytes:
    whole = b"".join(map(prefixed, sent))
    return b"".join(frame(DATA, 0, stream, whole[at : at + 16_384]) for at in range(0, len(whole), 16_384))


def created(key: bytes, **fields: int) -> bytes:
    create = pb.WatchCreateRequest(key=key, range_end=prefix_end(key), **fields)
    return pb.WatchRequest(create_request=create).SerializeToString()


PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString()
REFUSED = created(b"k", start_revision=-1)


def fill(client: Client, size: int) -> int:
    """Puts `VALUES` keys of `size` bytes; returns the revision of the first."""
    value = os.urandom(size)
    first = client.put(DIRECTORY + b"0000", value).header.revision
    for number in range(1, VALUES):
        client.put(DIRECTORY + b"%04d" % number, value)
    return first


def send(wire: Wire, *frames: bytes) -> None:
    """Sends until the server stops reading: a client over its budget is not read from, and may be cut off."""
    wire.socket.settimeout(1)
    for each in frames:
        try:
            wire.send(each)
        except OSError:
            return


# ---- responses that are not read


def test_watch_streams_without_a_window(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    first = fill(target.client(), 100 * KIB)
    streams = 100 * target.scale
    with target.probed() as probe, target.wire(window=0) as wire:
        send(wire, *(head(i, WATCH) + messages(i, created(DIRECTORY, start_revision=first))
                     for i in range(1, 2 * streams, 2)))  # fmt: skip
        await_that(lambda: target.metric("kine_queued_bytes") > 2 * MIB)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 4 * MIB + 2 * MIB  # its share, and one answer
        send(wire, *(frame(RST_STREAM, 0, i, bytes((0, 0, 0, 8))) for i in range(1, 2 * streams, 2)))
        await_that(lambda: target.metric("kine_watchers") == 0)
    assert target.memory_growth < 16 * MIB + SLACK


@pytest.mark.parametrize("asked", [REFUSED, PROGRESS], ids=["refused watches", "progress"])
def test_small_answers_without_a_window(start_target: StartTarget, asked: bytes) -> None:
    target = start_target("--max-queued-bytes=1MiB")
    with target.probed() as probe, target.wire(window=0) as wire:
        send(wire, *(head(i, WATCH) + messages(i, created(b"k%d" % i), *[asked] * 2_000)
                     for i in range(1, 200 * target.scale, 2)))  # fmt: skip
        await_that(lambda: target.metric("kine_queued_bytes") > 64 * KIB)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 512 * KIB
    assert target.memory_growth < SLACK


def test_ranges_without_a_window(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    fill(target.client(), 100 * KIB)
    one = pb.RangeRequest(key=DIRECTORY + b"0000").SerializeToString()
    with target.probed() as probe, target.wire(window=0) as wire:
        send(wire, *(head(i, RANGE) + body(i, one) for i in range(1, 2 * STREAMS, 2)))
        await_that(lambda: target.metric("kine_queued_bytes") > 2 * MIB)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 4 * MIB + 2 * MIB
    assert target.memory_growth < 16 * MIB + SLACK


def test_several_connections_share_one_budget(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    fill(target.client(), 100 * KIB)
    every = pb.RangeRequest(key=DIRECTORY, range_end=prefix_end(DIRECTORY), limit=10).SerializeToString()
    with target.probed() as probe:
        wires = [target.wire(window=0) for _ in range(8)]
        for wire in wires:
            send(wire, *(head(i, RANGE) + body(i, every) for i in range(1, 40, 2)))
        await_that(lambda: target.metric("kine_queued_bytes") > 4 * MIB)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 16 * MIB + 8 * 2 * MIB  # and one answer each
        for wire in wires:
            wire.socket.close()
        await_that(lambda: target.metric("kine_queued_bytes") < MIB)
        assert len(target.client().range(DIRECTORY, prefix_end(DIRECTORY), limit=20).kvs) == 20
    assert target.memory_growth < 16 * MIB + SLACK


def test_watches_of_one_stream_that_catch_up(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB", "--value-cache-bytes=1MiB")
    first = fill(target.client(), 100 * KIB)
    watches = 200 * target.scale
    with target.probed() as probe, target.wire(window=0) as wire:
        asked = (created(DIRECTORY, start_revision=first + number % 100) for number in range(watches))
        send(wire, head(1, WATCH), *(messages(1, each) for each in asked))
        await_that(lambda: target.metric("kine_queued_bytes") > MIB // 2)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 4 * MIB + 2 * MIB
    assert target.memory_growth < 16 * MIB + SLACK


def test_watches_of_one_stream_are_all_told_everything(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB", "--value-cache-bytes=1MiB")
    client = target.client()
    first = fill(client, 20 * KIB)
    watches = 20
    with target.probed(), client.watch() as stream:
        for number in range(watches):
            stream.ask(DIRECTORY, prefix_end(DIRECTORY), watch_id=number + 1, start_revision=first)
        told: dict[int, list[int]] = {number + 1: [] for number in range(watches)}
        while any(len(revisions) < VALUES for revisions in told.values()):
            answer = stream.receive(WAIT)
            told[answer.watch_id] += [event.kv.mod_revision for event in answer.events]
    assert all(revisions == list(range(first, first + VALUES)) for revisions in told.values())
    assert target.memory_growth < 16 * MIB + SLACK


# ---- many messages, many watches


def test_progress_asked_for_many_times_on_a_stream_of_many_watches(target: Target) -> None:
    watches, asked = 3_000 * target.scale, 2_000
    with target.probed() as probe, target.client().watch() as stream:
        for number in range(watches):
            stream.ask(b"/w%d" % number)
        for _ in range(watches):
            assert stream.receive(WAIT).created
        for _ in range(asked):
            stream.ask_progress()
        stream.cancel(0)
        notices = 0
        while not (answer := stream.receive(WAIT)).canceled:
            assert answer.watch_id == -1
            notices += 1
        probe.answers(20)
    assert 1 <= notices <= asked
    assert target.messages_per_turn <= 64


def test_more_watches_than_a_connection_may_have(start_target: StartTarget) -> None:
    target = start_target("--max-watches-per-connection=10")
    client = target.client()
    with client.watch() as one, client.watch() as other, target.client().watch() as strangers:
        for stream in (one, other):
            for number in range(5):
                assert not stream.create(b"/w%d" % number).canceled
        answer = other.create(b"/one too many")
        assert answer.canceled
        assert answer.watch_id == -1
        assert answer.cancel_reason == (
            "etcdserver: this connection has 10 watches open already: "
            "close some, use another connection, or raise --max-watches-per-connection"
        )
        assert not strangers.create(b"/w").canceled

        one.cancel(0)
        assert one.receive(WAIT).canceled
        assert not other.create(b"/room for one").canceled
        one.close()
        await_that(lambda: target.metric("kine_watchers") == 7)  # six of the other stream, one stranger's
        for number in range(4):
            assert not other.create(b"/of the stream that has ended%d" % number).canceled


# ---- transactions


def too_large(limit: int) -> str:
    return f"etcdserver: the answer would take more than {limit} bytes: ask for fewer keys at once"


def test_txn_of_many_ranges(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=32MiB")
    client = target.client()
    fill(client, 100 * KIB)
    everything = get(DIRECTORY, prefix_end(DIRECTORY))
    with target.probed():
        for operations in ([everything] * 20, [nested([], [everything] * 6)] * 18, [everything] * 128):
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(8 * MIB)):
                client.txn([], operations)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(8 * MIB)):
            client.txn([], [put(b"/not written", b"v"), *[everything] * 20])
        assert client.get(b"/not written") is None
        small = get(DIRECTORY + b"000", prefix_end(DIRECTORY + b"000"))
        assert [len(each.response_range.kvs) for each in client.txn([], [small] * 4).responses] == [10] * 4
    assert target.memory_growth < 32 * MIB + SLACK


def test_txn_of_more_operations_in_all_than_one_may_have(target: Target) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"):
        target.client().txn([], [nested([], [get(b"k")] * 64)] * 2)


def test_txn_that_compares_more_keys_than_one_may(target: Target) -> None:
    client = target.client()
    for number in range(0, 2_000, 100):
        client.txn([], [put(b"/many/%04d" % each, b"v") for each in range(number, number + 100)])
    held = pb.Compare(
        key=b"/many/", range_end=b"/many0", target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0
    )
    assert client.txn([held] * 100, []).succeeded
    by_value = pb.Compare(
        key=b"/many/", range_end=b"/many0", target=pb.Compare.VALUE, result=pb.Compare.NOT_EQUAL, value=b"w"
    )
    assert client.txn([by_value] * 40, []).succeeded
    for compares in ([held] * 128, [by_value] * 50):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MUCH_WORK):
            client.txn(compares, [])


def test_txn_that_compares_more_deleted_keys_than_one_may(target: Target) -> None:
    """Deleted keys are not part of the range, and cost as much to examine."""
    client = target.client()
    for number in range(0, 2_000, 100):
        client.txn([], [put(b"/many/%04d" % each, b"v") for each in range(number, number + 100)])
    client.delete(b"/many/", b"/many0")
    held = pb.Compare(key=b"/many/", range_end=b"/many0", target=pb.Compare.VERSION, result=pb.Compare.EQUAL)
    assert client.txn([held] * 100, []).succeeded
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MUCH_WORK):
        client.txn([held] * 128, [])
