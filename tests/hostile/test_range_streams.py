"""RangeStreams to clients that read nothing: one part each, also across compactions."""

from __future__ import annotations

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import prefix_end
from tests.hostile.conftest import StartTarget
from tests.hostile.harness import KIB, MIB, await_that, head
from tests.hostile.test_queued_bytes import DIRECTORY, SLACK, VALUES, fill, messages, send

PATH = "/etcdserverpb.KV/RangeStream"
EVERYTHING = pb.RangeRequest(key=DIRECTORY, range_end=prefix_end(DIRECTORY)).SerializeToString()
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def test_streams_of_a_long_range_without_a_window(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB", "--value-cache-bytes=1MiB")
    fill(target.client(), 100 * KIB)
    with target.probed() as probe, target.wire(window=0) as wire:
        streams = range(1, 200 * target.scale, 2)
        send(wire, *(head(i, PATH) + messages(i, EVERYTHING) for i in streams))
        await_that(lambda: target.metric("kine_queued_bytes") > 2 * MIB)
        probe.answers(20)
        assert target.metric("kine_queued_bytes") < 4 * MIB + 2 * MIB  # its share, and one part
    assert target.memory_growth < 16 * MIB + SLACK


def test_what_compactions_take_from_a_stream_is_bounded(start_target: StartTarget) -> None:
    target = start_target(
        "--value-cache-bytes=1MiB",
        "--compact-min-retain=0",
        constants={"kine.store.range_streams._KEPT": MIB},
    )
    client = target.client()
    fill(client, 100 * KIB)
    parts = client.range_stream(DIRECTORY, prefix_end(DIRECTORY))
    next(parts)
    for number in range(VALUES):
        client.put(DIRECTORY + b"%04d" % number, b"changed")
    client.compact(client.revision(), physical=True)

    with pytest.raises(grpc.RpcError) as refusal:
        list(parts)

    assert (refusal.value.code(), refusal.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, COMPACTED)
    [part] = client.range_stream(DIRECTORY, prefix_end(DIRECTORY))
    assert len(part.kvs) == VALUES
