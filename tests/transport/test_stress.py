"""Stress tests of a real process: load, slow peers and lost ones.

All get their responses, memory stays bounded, the server goes on, and its log has no line above info.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kine.proto import rpc_pb2 as rpc
from tests.client import Client
from tests.servers.kine import start_sqlite
from tests.transport.raw_http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    OK,
    RST_STREAM,
    WINDOW_UPDATE,
    Wire,
    block,
    body,
    call,
    frame,
    head,
    number,
    prefixed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.process import Instance

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BIG = 24  # MiB of values under /big/
RANGE, PUT, WATCH = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"
GET = rpc.RangeRequest(key=b"/a").SerializeToString()
LIST = rpc.RangeRequest(key=b"/big/", range_end=b"/big0").SerializeToString()
CANCELLED = number(8)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    quiet = ("--slow-sql-warning-threshold=1h",)  # a busy machine is no failure here
    instance = start_sqlite(tmp_path_factory.mktemp("stress"), transport="http2", flags=quiet)
    with Client(instance.address) as client:
        for index in range(BIG):
            client.put(b"/big/%04d" % index, bytes(MIB))
        client.range(b"/big/", b"/big0")
    yield instance
    assert instance.stop() == 0


@pytest.fixture
def address(process: Instance) -> Iterator[str]:
    yield process.address
    with Client(process.address) as client:
        client.get(b"/a")
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert [line for line in lines if line["severity"] not in ("info", "debug")] == []


def peak(process: Instance) -> int:
    """The process's maximum memory so far, MiB."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


def put(value: bytes) -> bytes:
    return rpc.PutRequest(key=b"/x", value=value).SerializeToString()


def watch() -> bytes:
    create = rpc.WatchCreateRequest(key=b"/watched")
    return rpc.WatchRequest(create_request=create).SerializeToString()


def test_thousand_connections_are_all_answered(address: str) -> None:
    wires = [Wire(address) for _ in range(1000)]
    for wire in wires:
        wire.send(call(1, RANGE, GET))

    answers = [wire.answers(1)[1] for wire in wires]
    for wire in wires:
        wire.socket.close()

    assert sum(OK in answer for answer in answers) == 1000


def test_ten_thousand_streams_on_four_connections_all_see_an_event(address: str) -> None:
    opening = block(WATCH)
    created, events = Counter[int](), Counter[int]()
    wires = [Wire(address) for _ in range(4)]
    for number_, wire in enumerate(wires):
        for first in range(1, 5001, 500):
            streams = range(first, first + 500, 2)
            wire.send(*(frame(HEADERS, 4, stream, opening) + body(stream, watch(), 0) for stream in streams))
            created[number_] += sum(1 for _ in messages(wire, len(streams)))

    with Client(address) as client:
        client.put(b"/watched", b"x")
    for number_, wire in enumerate(wires):
        events[number_] += sum(b"/watched" in message for message in messages(wire, 2500))
        wire.socket.close()

    assert created == events == dict.fromkeys(range(4), 2500)


def messages(wire: Wire, count: int) -> Iterator[bytes]:
    """The next messages, of streams whose messages each fit in one frame."""
    for got in wire.frames():
        if got.kind == DATA:
            yield got.payload
            count -= 1
            if not count:
                return


def test_client_that_never_reads_costs_no_more_than_its_share(process: Instance, address: str) -> None:
    before = peak(process)
    with Wire(address, socket_buffer=16_384) as wire, Client(address) as client:
        wire.send(*(call(stream, RANGE, LIST) for stream in range(1, 61, 2)))  # 720 MiB of answers
        for _ in range(200):
            client.get(b"/a")

    assert peak(process) - before < 300


def test_slow_reader_gets_all_and_holds_nobody_up(process: Instance, address: str) -> None:
    before, size = peak(process), 0
    with Wire(address, window=65_536, socket_buffer=16_384) as slow, Wire(address) as other:
        slow.send(call(1, RANGE, LIST))
        for turn, got in enumerate(slow.frames()):
            if got.kind == DATA:
                size += len(got.payload)
                slow.send(frame(WINDOW_UPDATE, 0, 1, number(len(got.payload))))
                if not turn % 10:  # the server has nothing it may send the slow one now
                    other.send(call(2 * turn + 1, RANGE, GET))
                    assert OK in other.answers(1)[2 * turn + 1]
            elif got.kind == HEADERS and got.flags & END_STREAM:
                assert OK in got.payload
                break

    assert size > BIG * MIB
    assert peak(process) - before < 300


def test_slow_writer_is_answered_and_holds_nobody_up(address: str) -> None:
    request = prefixed(put(bytes(1_400_000)))
    with Wire(address, socket_buffer=16_384) as slow, Wire(address) as other:
        slow.send(head(1, PUT))
        for turn, at in enumerate(range(0, len(request), 4096)):
            slow.send(frame(DATA, 0, 1, request[at : at + 4096]))
            other.send(call(2 * turn + 1, RANGE, GET))
            assert OK in other.answers(1)[2 * turn + 1]
        slow.send(frame(DATA, END_STREAM, 1))

        assert OK in slow.answers(1)[1]


def test_storm_of_resets_is_told_to_calm_down(process: Instance, address: str) -> None:
    before = peak(process)
    opening = block(WATCH)
    for _ in range(3):
        with Wire(address) as wire:
            storm = (
                frame(HEADERS, 4, stream, opening)
                + body(stream, watch(), 0)
                + frame(RST_STREAM, 0, stream, CANCELLED)
                for stream in range(1, 6001, 2)
            )
            try:
                wire.send(*storm)
            except OSError:  # the server does not even read the rest
                continue
            code, reason = wire.goodbye()
        assert (code, reason) == (11, b"too many streams reset")

    assert peak(process) - before < 100


def test_request_is_taken_byte_by_byte(address: str) -> None:
    with Wire(address) as wire:
        for byte in call(1, PUT, put(b"y" * 2000)):
            wire.send(bytes([byte]))

        assert OK in wire.answers(1)[1]


def test_connections_lost_within_a_message_leave_nothing_behind(process: Instance, address: str) -> None:
    before = peak(process)
    whole = call(1, PUT, put(b"y" * 20_000))
    for turn in range(200):
        wire = Wire(address, greet=bool(turn % 4))
        wire.send(whole[: 10 if turn % 3 else len(whole) // 2] if turn % 4 else b"PRI * HT")
        if turn % 2:
            wire.lose()
        else:
            wire.socket.close()

    assert peak(process) - before < 50


def test_halves_of_large_requests_hold_no_more_than_the_window(process: Instance, address: str) -> None:
    before = peak(process)
    half = b"\0" + number(1_500_000) + bytes(60_000)
    with Wire(address) as wire:
        for stream in range(1, 2401, 2):  # 72 MB, and none ever complete
            wire.send(head(stream, PUT))
            for at in range(0, len(half), 15_000):
                wire.send(frame(DATA, 0, stream, half[at : at + 15_000]))
        wire.send(call(2401, RANGE, GET))

        assert OK in wire.answers(1)[2401]  # the largest were cut off

    assert peak(process) - before < 150
