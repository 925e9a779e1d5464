"""More connections than the limit allows, and than the system has file descriptors for."""

from __future__ import annotations

import json
import resource
import socket
from collections import deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from kine.proto import rpc_pb2 as pb
from tests.hostile.harness import KEY, MIB, Target, await_that, head
from tests.hostile.test_queued_bytes import RANGE, WATCH, created, messages
from tests.transport.raw_http2 import DATA, GOAWAY, HEADERS, Wire, body, frame

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget

MOST = 40
PUT = "/etcdserverpb.KV/Put"


def opened(target: Target, stack: ExitStack, count: int) -> list[socket.socket]:
    """Opens connections that send nothing."""
    host, _, port = target.address.rpartition(":")
    found = []
    for _ in range(count):
        with suppress(OSError):
            found.append(stack.enter_context(socket.create_connection((host, int(port)), 60)))
    return found


def told(target: Target) -> list[dict[str, object]]:
    lines = map(json.loads, target.instance.log.read_text().splitlines())
    return [line for line in lines if line["message"] == "--max-connections are open"]


def test_idle_connections_make_room(start_target: StartTarget) -> None:
    target = start_target(f"--max-connections={MOST}")
    client = target.client()
    with client.watch() as stream, target.probed() as probe, ExitStack() as stack:
        assert not stream.create(KEY).canceled
        for _ in range(5):
            opened(target, stack, MOST)
        await_that(lambda: target.metric("kine_connections") <= MOST + 8)
        await_that(lambda: target.metric("kine_connections_turned_away_total") > 3 * MOST)
        with target.client() as other:
            other.put(KEY, b"here")
        assert stream.receive(60).events  # a call under way keeps its connection
        probe.answers(20)
    assert 1 <= len(told(target)) <= 3


def test_connection_that_makes_room_is_told_to_go(start_target: StartTarget) -> None:
    target = start_target(f"--max-connections={MOST}")
    if target.transport == "grpcio":
        pytest.skip("its library has no call for that")
    one = pb.RangeRequest(key=KEY).SerializeToString()
    wires: deque[Wire] = deque()
    with ExitStack() as stack:
        for _ in range(3 * MOST):  # some in the same millisecond, the server clock's resolution
            wires.append(stack.enter_context(target.wire()))
            wires[-1].send(head(1, RANGE) + body(1, one))
            wires[-1].answers(1)
            if len(wires) > MOST:
                assert GOAWAY in {got.kind for got in wires.popleft().frames()}


def test_connections_with_calls_keep_their_place(start_target: StartTarget) -> None:
    target = start_target(f"--max-connections={MOST}")
    if target.transport == "grpcio":
        pytest.skip("it closes some")
    with ExitStack() as stack:
        wires = [stack.enter_context(target.wire()) for _ in range(MOST)]
        for wire in wires:
            wire.send(head(1, WATCH) + messages(1, created(KEY)))
            assert next(got for got in wire.frames() if got.kind == HEADERS)
        refused = stack.enter_context(Wire(target.address, greet=False))
        assert list(refused.frames()) == []
        wires.pop().socket.close()
        await_that(lambda: target.metric("kine_connections") < MOST)
        target.client().put(KEY, b"here")
    assert told(target)[0]["refused"] is True


def test_more_connections_than_descriptors(start_target: StartTarget) -> None:
    target = start_target()
    client = target.client()
    client.put(KEY, b"here")
    limit = target.connections + 60
    resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with ExitStack() as stack:
        opened(target, stack, 200)
        for number in range(50):
            client.put(KEY, b"%d" % number)
        assert client.get(KEY).value == b"49"
    await_that(lambda: target.metric("kine_connections") < 20)
    with target.client() as other:
        other.put(KEY, b"here")
    assert target.memory < 512 * MIB
    if target.transport != "grpcio":
        lines = map(json.loads, target.instance.log.read_text().splitlines())
        assert 1 <= sum(line["message"] == "cannot accept a connection" for line in lines) <= 5


def test_large_requests_that_many_connections_send_half_of(start_target: StartTarget) -> None:
    target = start_target("--max-queued-bytes=16MiB")
    half = frame(DATA, 0, 1, bytes(16_384))
    begun = head(1, PUT) + frame(DATA, 0, 1, b"\0" + (1_500_000).to_bytes(4, "big"))
    with target.probed() as probe, ExitStack() as stack:
        wires = [stack.enter_context(target.wire()) for _ in range(64)]
        for wire in wires:
            # grpcio accepts 16 KiB before a request is read, and ends a call that sends more.
            wire.send(
                begun, *([half] * 64 if target.transport != "grpcio" else [frame(DATA, 0, 1, bytes(8_000))])
            )
        await_that(lambda: target.metric("kine_requests_dropped_total") > 40)
        assert target.metric("kine_received_bytes") <= 16 * MIB
        probe.answers(20)
        with target.client() as other:
            other.put(KEY, b"here")
            other.put(b"/large", bytes(1_000_000))
    assert target.memory_growth < 64 * MIB
    await_that(lambda: target.metric("kine_received_bytes") == 0)
