"""Ranges sorted by long values with a common prefix: a few MiB are compared per turn of the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import MIB, request
from tests.hostile.test_queued_bytes import RANGE

if TYPE_CHECKING:
    from tests.hostile.harness import Target

LARGE = 500_000
NUMBER = 60


def test_large_values_that_begin_alike_sorted_by_value(target: Target) -> None:
    client = target.client()
    for number in range(NUMBER):
        client.put(b"/large/%02d" % (number * 37 % NUMBER), bytes(LARGE) + b"%02d" % number)
    wanted = [b"/large/%02d" % (number * 37 % NUMBER) for number in reversed(range(NUMBER))]
    by_value = pb.RangeRequest(
        key=b"/large/",
        range_end=b"/large0",
        keys_only=True,
        sort_target=pb.RangeRequest.VALUE,
        sort_order=pb.RangeRequest.DESCEND,
    )
    calls = 20 * target.scale
    with target.probed() as probe, target.wire() as wire:
        one = by_value.SerializeToString()
        wire.send(*(request(stream, RANGE, one) for stream in range(1, 2 * calls, 2)))
        found = client.call("KV/Range", by_value, pb.RangeResponse)
        probe.answers(10)
        wire.answers(calls)
    assert [item.key for item in found.kvs] == wanted
    # A turn finishes sorting one run of 8 MiB, or merges as much: each value is copied once.
    assert target.metric("hostile_value_bytes_per_turn") <= 24 * MIB


def test_large_keys_that_begin_alike_in_the_other_order(target: Target) -> None:
    client = target.client()
    keys = [b"/large/" + bytes(LARGE) + b"%02d" % number for number in range(20)]
    for key in keys:
        client.put(key, b"v")
    found = client.call(
        "KV/Range",
        pb.RangeRequest(key=b"/large/", range_end=b"/large0", sort_order=pb.RangeRequest.DESCEND),
        pb.RangeResponse,
    )
    assert [item.key for item in found.kvs] == keys[::-1]
