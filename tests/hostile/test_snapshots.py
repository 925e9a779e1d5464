"""Snapshot streams, each of which would copy the database if they were not limited."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.hostile.harness import MIB, await_that, request

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target
    from tests.transport.raw_http2 import Wire

SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
STREAMS = 12


def fill(target: Target) -> int:
    """Writes some megabytes; returns the database's size."""
    client = target.client()
    for number in range(8 * target.scale):
        client.put(b"/large/%d" % number, bytes(MIB))
    return int(client.status().dbSize)


def ask(wire: Wire, streams: int = 1) -> None:
    wire.send(*(request(1 + 2 * number, SNAPSHOT, b"") for number in range(streams)))


def copies(target: Target) -> set[str]:
    return {name for name in target.files if "snapshot" in name}


def test_streams_that_take_nothing_hold_one_copy_and_leave_none(target: Target) -> None:
    size = fill(target)
    with target.probed() as probe, ExitStack() as opened:
        for _ in range(STREAMS):
            ask(opened.enter_context(target.wire(window=0)))
        await_that(lambda: target.unlinked > 0)
        probe.answers(50)
        held = target.unlinked

        assert copies(target) == set()  # it is unlinked
    assert held < 1.5 * size
    assert target.memory_growth < 64 * MIB
    for _ in range(10 * target.scale):  # copies whose clients are gone
        with target.wire(window=0) as wire:
            ask(wire, 3)
    assert sum(len(part.blob) for part in target.client().snapshot()) > 0
    await_that(lambda: target.unlinked == 0 and not copies(target))


@pytest.mark.slow
def test_client_that_finds_another_is_refused_and_served_once_that_is_given_up(
    start_target: StartTarget,
) -> None:
    target = start_target(constants={"kine.etcd.snapshot._WAIT": 1.0, "kine.etcd.maintenance._STALLED": 10.0})
    size = fill(target)
    client = target.client()
    with target.wire(window=0) as wire:
        ask(wire)
        await_that(lambda: target.unlinked > 0)
        with pytest.raises(grpc.RpcError) as refusal:
            client.snapshot()
        assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "one is made at a time" in refusal.value.details()
        await_that(lambda: target.unlinked == 0)

        assert sum(len(part.blob) for part in client.snapshot()) >= size / 3


@pytest.mark.slow
def test_kill_leaves_nothing_after_the_next_start(start_target: StartTarget) -> None:
    target = start_target()
    fill(target)
    with target.wire(window=0) as wire:
        ask(wire, STREAMS)
        await_that(lambda: copies(target) or target.unlinked)
        target.instance.kill()

    assert copies(start_target()) == set()
