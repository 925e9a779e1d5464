"""Small requests that make the server read large values: for a write, or a response that is not read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import MIB, WAIT, await_that, head
from tests.hostile.test_queued_bytes import RANGE, SLACK, TXN
from tests.transport.raw_http2 import body
from tests.txn_ops import get, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client import Client
    from tests.hostile.conftest import StartTarget

PUT = "/etcdserverpb.KV/Put"
SIZE = 1_000_000
KEYS = 30
CALLS = 200
BUDGET = 16 * MIB
CACHED, UNCACHED = "--value-cache-bytes=128MiB", "--value-cache-bytes=1MiB"

CACHES = [
    pytest.param(CACHED, id="cached", marks=pytest.mark.engines),
    pytest.param(UNCACHED, id="not cached"),
]


def key(number: int) -> bytes:
    return b"/large/%02d" % (number % KEYS)


def fill(client: Client) -> None:
    for number in range(KEYS):
        client.put(key(number), os.urandom(SIZE))


def refused_swap(number: int) -> pb.TxnRequest:
    """Like Kubernetes' update: if another client was first, the response has the current value."""
    first = pb.Compare(key=key(number), target=pb.Compare.MOD, mod_revision=1)
    return pb.TxnRequest(compare=[first], success=[put(key(number), b"v")], failure=[get(key(number))])


def compared(number: int) -> pb.TxnRequest:
    differs = pb.Compare(
        key=key(number), target=pb.Compare.VALUE, result=pb.Compare.NOT_EQUAL, value=b"another"
    )
    return pb.TxnRequest(compare=[differs], success=[put(b"/small", b"v")])


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (PUT, lambda number: pb.PutRequest(key=key(0), ignore_value=True)),
        (PUT, lambda number: pb.PutRequest(key=key(number), ignore_value=True)),
        (TXN, compared),
    ],
    ids=["one key", "many keys", "compares"],
)
def test_values_that_writes_need(
    start_target: StartTarget, cache: str, path: str, asked: Callable[[int], pb.PutRequest | pb.TxnRequest]
) -> None:
    target = start_target(f"--max-queued-bytes={BUDGET}", cache)
    fill(target.client())
    with target.probed() as probe, target.wire() as wire:
        wire.send(
            *(head(2 * n + 1, path) + body(2 * n + 1, asked(n).SerializeToString()) for n in range(CALLS))
        )
        wire.answers(CALLS)
        probe.answers(5)
    # Cached new values grow with the writes; a group commit takes 8 MiB, plus what is made of it.
    assert target.memory_growth < BUDGET + SLACK + 40 * MIB + (100 * MIB if cache == CACHED else 0)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (RANGE, lambda number: pb.RangeRequest(key=key(number))),
        (PUT, lambda number: pb.PutRequest(key=key(number), ignore_value=True, prev_kv=True)),
        (TXN, refused_swap),
        (TXN, lambda number: pb.TxnRequest(success=[get(key(number))])),
    ],
    ids=["get", "put", "swap", "txn"],
)
def test_values_in_answers_that_are_not_taken(
    start_target: StartTarget,
    cache: str,
    path: str,
    asked: Callable[[int], pb.RangeRequest | pb.PutRequest | pb.TxnRequest],
) -> None:
    target = start_target(f"--max-queued-bytes={BUDGET}", cache)
    fill(target.client())
    with target.probed() as probe, target.wire(window=0) as wire:
        wire.send(
            *(head(2 * n + 1, path) + body(2 * n + 1, asked(n).SerializeToString()) for n in range(CALLS))
        )
        await_that(lambda: target.metric("kine_queued_bytes") > 2 * SIZE)
        probe.answers(300)
        assert target.metric("kine_queued_bytes") < BUDGET // 4 + 8 * MIB  # on grpcio, responses count twice
    assert target.memory_growth < BUDGET + SLACK + 40 * MIB


def test_requests_that_were_unpacked_do_not_keep_their_own_answers_from_being_made(
    start_target: StartTarget,
) -> None:
    target = start_target(f"--max-queued-bytes={BUDGET}", UNCACHED)
    client = target.client()
    fill(client)
    one = pb.RangeRequest(key=b"/large/", range_end=b"/large0" + bytes(SIZE), limit=2).SerializeToString()
    call = client.channel.unary_unary(RANGE)
    waiting = [call.future(one, compression=grpc.Compression.Gzip, timeout=WAIT) for _ in range(24)]
    assert {len(pb.RangeResponse.FromString(each.result()).kvs) for each in waiting} == {2}
