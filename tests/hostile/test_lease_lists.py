"""Hundreds of requests to list leases, and the keys of one: one list is made for all that wait."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import KIB, MIB, await_that, request
from tests.hostile.test_maintenance_loops import statements, together
from tests.txn_ops import put

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

LIST, TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseLeases", "/etcdserverpb.Lease/LeaseTimeToLive"
CONNECTIONS, CALLS = 3, 150
IDS = range(1, 2 * CALLS, 2)
GRANT, GRANTS = "/etcdserverpb.Lease/LeaseGrant", 2_000
FOREVER = 9_000_000_000
BLOCK = 100  # leases or keys encoded in one turn of the event loop


@pytest.fixture
def target(start_target: StartTarget) -> Target:
    return start_target("--max-queued-bytes=64MiB", constants={"kine.etcd.lease._BLOCK": BLOCK})


def test_lists_of_leases_by_the_hundred(target: Target) -> None:
    client = target.client()
    granted: set[int] = set()
    together(10 * BLOCK, lambda _: granted.add(client.grant(FOREVER).ID))
    before = statements(target, "Leases")
    with target.probed() as probe, ExitStack() as opened:
        wires = [opened.enter_context(target.wire()) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.send(*(request(stream, LIST, b"") for stream in IDS))
        probe.answers(20)
        assert client.leases() == granted
        for wire in wires:
            wire.answers(CALLS)
    # Requests that arrive while the database is being read share the next read.
    assert statements(target, "Leases") - before < CONNECTIONS * CALLS / 4
    assert target.leases_per_turn <= BLOCK


def test_keys_of_a_lease_by_the_hundred(target: Target) -> None:
    client = target.client()
    lease = client.grant(FOREVER).ID
    keys = [b"/leased/%06d/" % number + bytes(200) for number in range(20 * BLOCK)]
    for start in range(0, len(keys), BLOCK):
        client.txn([], [put(key, b"v", lease=lease) for key in keys[start : start + BLOCK]])
    one = pb.LeaseTimeToLiveRequest(ID=lease, keys=True).SerializeToString()
    with target.probed() as probe, ExitStack() as opened:
        wires = [opened.enter_context(target.wire(window=0)) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.send(*(request(stream, TIME_TO_LIVE, one) for stream in IDS))
        await_that(lambda: target.metric("kine_queued_bytes") > 300 * KIB)
        probe.answers(20)
        assert sorted(client.time_to_live(lease, keys=True).keys) == keys
    assert target.leases_per_turn <= BLOCK
    # Of 190 MiB that were asked for; the library has a copy of each answer.
    assert target.memory_growth < (24 if target.transport != "grpcio" else 128) * MIB


def test_keys_of_a_lease_are_those_of_the_call(target: Target) -> None:
    """A list that was already being made when the call came is not used for it."""
    client = target.client()
    lease = client.grant(FOREVER).ID
    for number in range(3 * BLOCK):
        client.put(b"/leased/%06d" % number, b"v", lease=lease)
        if number % BLOCK in (0, BLOCK - 1):
            assert len(client.time_to_live(lease, keys=True).keys) == number + 1


def test_one_write_among_thousands_of_grants_of_another_client(target: Target) -> None:
    if target.transport == "grpcio":
        pytest.skip("it begins calls of all methods but KV's in the order in which they came")
    client = target.client()
    grant = pb.LeaseGrantRequest(TTL=FOREVER).SerializeToString()
    all_of_them = CONNECTIONS * GRANTS
    with ExitStack() as opened:
        wires = [opened.enter_context(target.wire()) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.send(*(request(stream, GRANT, grant) for stream in range(1, 2 * GRANTS, 2)))
        await_that(lambda: target.metric("hostile_calls") >= all_of_them)
        client.put(b"/ours", b"v")
        client.grant(FOREVER)
        granted = target.metric("kine_leases")
        for wire in wires:
            wire.answers(GRANTS)
    assert granted < all_of_them * 3 / 4
    assert target.metric("kine_leases") == all_of_them + 1
