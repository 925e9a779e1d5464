"""Expensive calls in a loop: Defragment, Compact, Hash, HashKV, and leases without end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.hostile.harness import MIB

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

CLIENTS = 8
LARGE = 1_000_000


def together(calls: int, call: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(call, range(calls)))


def statements(target: Target, name: str) -> int:
    """How often this statement was sent to the database, according to the metrics."""
    lines = target.page("/metrics")[1].splitlines()
    counted = [line for line in lines if line.startswith("kine_sql_total{") and f'name="{name}"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in counted)


def test_defragment_in_a_loop_is_joined_and_rests(target: Target) -> None:
    client = target.client()
    client.put(b"/large", bytes(MIB))
    stop = threading.Event()
    asked = 0

    def defragment(number: int) -> None:
        nonlocal asked
        while not stop.is_set():
            client.defragment()
            asked += 1

    with target.probed() as probe:
        attack = threading.Thread(target=together, args=(CLIENTS, defragment))
        attack.start()
        try:
            for number in range(5):
                client.put(b"/put", b"%d" % number)
            probe.answers(100)
        finally:
            stop.set()
            attack.join()

    # Each run serves all requests that arrive meanwhile, except those that arrive between two.
    assert statements(target, "Vacuum") <= asked / CLIENTS + 2


def test_hashes_in_a_loop_are_made_one_at_a_time_in_bounded_memory(target: Target) -> None:
    client = target.client()
    for number in range(30 * target.scale):
        client.put(b"/large/%d" % number, bytes(LARGE))
    client.hash_kv()
    with target.probed() as probe:
        together(30, lambda _: client.hash_kv())
        together(30, lambda _: client.hash())
        probe.answers(10)

    assert len({client.hash_kv().hash for _ in range(3)}) == 1
    assert target.memory_growth < 96 * MIB


def test_compact_in_a_loop_is_joined(start_target: StartTarget) -> None:
    target = start_target("--compact-min-retain=0")
    client = target.client()
    last = [client.put(b"/key", b"%d" % number).header.revision for number in range(300)][-1]
    begun = statements(target, "Compact")
    with target.probed() as probe:
        streams = [
            client.channel.unary_unary("/etcdserverpb.KV/Compact").future(
                b"\x08" + _varint(last - number), timeout=60
            )
            for number in range(250)
        ]
        outcome = {_code(stream) for stream in streams}
        probe.answers(10)

    assert outcome <= {"OK", "OUT_OF_RANGE"}
    assert statements(target, "Compact") - begun <= 20


def test_compact_in_a_loop_does_not_flood_the_log(start_target: StartTarget) -> None:
    target = start_target("--compact-min-retain=0")
    client = target.client()
    last = 0
    for number in range(60):
        last = client.put(b"/key", b"%d" % number).header.revision
        client.compact(last)
    log = target.instance.log.read_text()
    assert 1 <= log.count("compacted revisions") <= 30
    assert client.hash_kv().compact_revision == last


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _code(call: object) -> str:
    error = call.exception()  # type: ignore[attr-defined]
    return "OK" if error is None else error.code().name


def test_leases_are_bounded_by_the_flag(start_target: StartTarget) -> None:
    most = 300
    target = start_target(f"--max-leases={most}")
    client = target.client()
    granted: list[int] = []
    refusals: list[grpc.RpcError] = []

    def grant(number: int) -> None:
        try:
            granted.append(client.grant(9_000_000_000).ID)
        except grpc.RpcError as error:
            refusals.append(error)

    with target.probed():
        together(most + 100, grant)

    assert len(granted) == most
    assert {(each.code(), each.details()) for each in refusals} == {
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "etcdserver: too many leases are granted: revoke some, or raise kine's --max-leases",
        )
    }
    assert target.metric("kine_leases") == most
    with pytest.raises(grpc.RpcError, match="already exists"):
        client.grant(60, granted[0])
    with pytest.raises(grpc.RpcError, match="too large lease TTL"):
        client.grant(9_000_000_001)
    client.put(b"/key", b"v", lease=granted[0])
    client.revoke(granted[0])
    assert client.grant(60).TTL == 60
