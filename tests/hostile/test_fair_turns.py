"""Fair scheduling: one client's queued reads, writes and expensive transactions do not delay the others'."""

from __future__ import annotations

import gzip
import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
from hpack import Encoder

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import KEY, MIB, await_that, head
from tests.hostile.test_queued_bytes import RANGE, STREAMS, TXN
from tests.transport.raw_http2 import DATA, END_HEADERS, HEADERS, body, frame
from tests.txn_ops import put

if TYPE_CHECKING:
    from tests.client import Client
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

PUT = "/etcdserverpb.KV/Put"
KEYS = 5_000
SORTED = {
    "key": b"/many/",
    "range_end": b"/many0",
    "limit": 1,
    "sort_order": pb.RangeRequest.DESCEND,
    "sort_target": pb.RangeRequest.MOD,
}
IDS = range(1, 2 * STREAMS, 2)


def fill(client: Client) -> None:
    for number in range(0, KEYS, 100):
        client.txn([], [put(b"/many/%06d" % each, b"v") for each in range(number, number + 100)])


def test_one_sorted_range_among_hundreds_of_another_client(target: Target) -> None:
    if target.transport == "grpcio":
        pytest.skip("the library begins calls of one method in the order in which they came")
    client = target.client()
    fill(client)
    one = pb.RangeRequest(**SORTED).SerializeToString()
    with target.probed(), target.wire(window=0) as wire:  # each of its responses stays queued, and counts
        wire.send(*(head(stream, RANGE) + body(stream, one) for stream in IDS))
        await_that(lambda: target.metric("kine_queued_bytes") > 0)
        assert len(client.call("KV/Range", pb.RangeRequest(**SORTED), pb.RangeResponse).kvs) == 1
        answered = target.metric("kine_queued_bytes")
        await_that(lambda: target.metric("kine_queued_bytes") > 2 * answered)  # most responses came after it


def test_one_put_among_thousands_of_another_client(start_target: StartTarget) -> None:
    target = start_target(constants={"kine.store.writer._MAX_ROWS": 16})
    if target.transport == "grpcio":
        pytest.skip("its calls wait in the library, before they come to the queue of writes")
    client = target.client()
    with ExitStack() as opened:
        wires = [opened.enter_context(target.wire()) for _ in range(5)]
        value = bytes(2_000)
        for wire in wires:
            wire.send(
                *(
                    head(stream, PUT)
                    + body(stream, pb.PutRequest(key=b"/f%d" % stream, value=value).SerializeToString())
                    for stream in IDS
                )
            )
        await_that(lambda: target.metric("kine_write_queue") > 2 * STREAMS)
        before = client.revision()
        mine = client.put(KEY, b"mine").header.revision
        for wire in wires:
            wire.answers(STREAMS)
    assert mine - before < STREAMS


def test_queue_that_one_client_has_filled_takes_what_others_write(start_target: StartTarget) -> None:
    target = start_target(constants={"kine.store.write_queue.MAX_QUEUE": 50})
    with target.probed(), ExitStack() as opened:
        one = pb.PutRequest(key=b"/same", value=b"v").SerializeToString()  # one of these in each commit
        wire = opened.enter_context(target.wire())
        wire.send(*(head(stream, PUT) + body(stream, one) for stream in IDS))
        client = target.client()
        for number in range(20):
            client.put(b"/others", b"%d" % number)
        wire.answers(STREAMS)  # most of them refused


def dear(target: Target) -> bytes:
    """A Txn that compares all keys ten times, and would write if that failed, which it does not."""
    fill(target.client())
    held = pb.Compare(
        key=b"/many/", range_end=b"/many0", target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0
    )
    return pb.TxnRequest(compare=[held] * 10, failure=[put(b"/never", b"v")]).SerializeToString()


def test_transactions_that_look_at_many_keys_and_write_nothing(target: Target) -> None:
    one = dear(target)
    calls = 60 * target.scale
    with target.probed() as probe, target.wire() as wire:
        wire.send(*(head(stream, TXN) + body(stream, one) for stream in range(1, 2 * calls, 2)))
        probe.answers(20)
        wire.answers(calls)
    assert target.plans_per_turn <= 16  # of 10 ms in all, or one


def test_transactions_that_compare_large_values_many_times(target: Target) -> None:
    client = target.client()
    for number in range(10):
        client.put(b"/large/%d" % number, os.urandom(1_000_000))
    differs = pb.Compare(
        key=b"/large/",
        range_end=b"/large0",
        target=pb.Compare.VALUE,
        result=pb.Compare.NOT_EQUAL,
        value=b"another",
    )
    one = pb.TxnRequest(compare=[differs] * 128).SerializeToString()
    calls = 50 * target.scale
    with target.probed() as probe, target.wire() as wire:
        wire.send(*(head(stream, TXN) + body(stream, one) for stream in range(1, 2 * calls, 2)))
        probe.answers(20)
        wire.answers(calls)
    assert target.plans_per_turn == 1
    assert target.memory_growth < 64 * MIB


def test_writes_of_one_key_are_not_decided_upon_again_and_again(target: Target) -> None:
    """Each commit takes one of them; the others wait without being evaluated again."""
    one = pb.TxnRequest(success=[put(b"/same", b"v"), put(b"/other", b"v")]).SerializeToString()
    with target.probed() as probe, target.wire() as wire:
        wire.send(*(head(stream, TXN) + body(stream, one) for stream in IDS))
        wire.answers(STREAMS)
        probe.answers(5)
    assert target.metric("hostile_plans") < 3 * STREAMS


def test_compressed_messages_count_as_large_as_they_become(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB", "--value-cache-bytes=1MiB")
    never = pb.Compare(key=KEY, target=pb.Compare.VERSION, version=1_000_000)  # so that nothing is written
    txn = pb.TxnRequest(compare=[never], success=[put(b"/large", bytes(1_400_000))])
    large = gzip.compress(txn.SerializeToString())
    packed = b"\1" + len(large).to_bytes(4, "big") + large
    calls = 60 * target.scale
    with target.probed() as probe, ExitStack() as opened:
        wires = [opened.enter_context(target.wire()) for _ in range(4)]
        for wire in wires:
            wire.send(
                *(
                    head(stream, TXN, ("grpc-encoding", "gzip")) + frame(DATA, 1, stream, packed)
                    for stream in range(1, 2 * calls, 2)
                )
            )
        probe.answers(20)
        threads = [threading.Thread(target=wire.answers, args=(calls,)) for wire in wires]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # Of 340 in all. The library unpacks 16 requests of each connection, and has copies of its own.
    assert target.memory_growth < (96 if target.transport != "grpcio" else 256) * MIB
    if target.transport != "grpcio":
        assert target.calls_per_turn <= 32


def test_header_blocks_of_many_fields(target: Target) -> None:
    if target.transport == "grpcio":
        pytest.skip("the library decodes them, in threads of its own")
    fields = [(":method", "POST"), (":scheme", "http"), (":path", RANGE), ("te", "trailers"), ("x", "y")]
    encoder = Encoder()
    encoder.encode([*fields, ("content-type", "application/grpc")])  # afterwards both header tables are equal
    many = encoder.encode([*fields, ("content-type", "application/grpc")]) + b"\xbf" * 1_000
    first = Encoder().encode([*fields, ("content-type", "application/grpc")])
    one = pb.RangeRequest(key=KEY).SerializeToString()
    calls = 500 * target.scale
    with target.probed() as probe, target.wire() as wire:
        wire.send(frame(HEADERS, END_HEADERS, 1, first) + body(1, one))
        wire.send(
            *(
                frame(HEADERS, END_HEADERS, stream, many) + body(stream, one)
                for stream in range(3, 2 * calls, 2)
            )
        )
        probe.answers(5)
        wire.answers(calls)
    assert target.calls_per_turn <= 24


@pytest.mark.parametrize(("field", "nested"), [("compare", False), ("success", True)])
def test_transactions_of_hundreds_of_thousands_of_operations(
    target: Target, field: str, nested: bool
) -> None:
    """A few bytes each on the wire, 40 MB each once decoded."""
    many = (b"\x0a\0" if field == "compare" else b"\x12\0") * 500_000
    txn = pb.TxnRequest.FromString(many)
    if nested:
        txn = pb.TxnRequest(success=[pb.RequestOp(request_txn=txn)])
    request = txn.SerializeToString()
    client = target.client()
    client.put(KEY, b"here")
    with target.probed():
        call = client.channel.unary_unary(TXN)
        waiting = [call.future(request, compression=grpc.Compression.Gzip, timeout=60) for _ in range(24)]
        assert {one.code() for one in waiting} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert target.memory_growth < 256 * MIB
