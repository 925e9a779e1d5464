"""Streaming calls, flow control and large messages, on every transport."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.transport.transport_thread import WAIT, Channel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transport.conftest import Serve
    from tests.transport.sample_routes import Seen

MIB = 1024 * 1024


def test_chat_answers_each_message_in_order(channel: Channel) -> None:
    sent = [b"%d" % number * (number + 1) for number in range(200)]

    assert list(channel.stream("Chat", iter(sent))) == sent


def test_messages_of_every_size_pass_a_stream_both_ways(channel: Channel) -> None:
    sent = [bytes(size) for size in (0, 1, 16_379, 65_531, 65_532, 1_500_000, 0, 1_500_000, 5)]

    assert list(channel.stream("Chat", iter(sent))) == sent


def test_server_stream_arrives_whole(channel: Channel) -> None:
    answers = list(channel.server_stream("Count", b"3000 2000"))

    assert [int(answer) for answer in answers] == list(range(3000))


def test_many_small_messages_are_taken_before_the_end(channel: Channel) -> None:
    (answer,) = channel.stream("Collect", (b"x" for _ in range(5000)))

    assert json.loads(answer) == [1] * 5000


def test_error_of_a_stream_comes_after_its_messages(channel: Channel) -> None:
    call = channel.server_stream("Fail", b"5 no such thing")

    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError) as failure:
        next(call)
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


def test_stream_that_is_not_read_holds_its_producer(channel: Channel, seen: Seen) -> None:
    call = channel.server_stream("Pour", b"slow")
    assert seen["slow full"].wait(WAIT)
    for _ in range(100):
        next(call)
    call.cancel()

    assert seen["slow cancelled"].wait(WAIT)
    assert seen.sent["slow"] < 4000  # 64 KiB each: what lies in sockets and windows, and no more


def test_stream_that_is_not_taken_in_holds_no_other_call(channel: Channel, seen: Seen) -> None:
    def much() -> object:
        yield b"deaf"
        yield from (bytes(60_000) for _ in range(100))

    call = channel.stream("Ignore", much())
    assert seen["deaf begun"].wait(WAIT)

    assert channel.unary("Length", bytes(1_500_000)) == b"1500000"
    call.cancel()


def test_large_requests_at_once_all_come_through(channel: Channel) -> None:
    calls = [channel.begin("Length", bytes(1_500_000 + number)) for number in range(60)]

    assert [int(call.result()) for call in calls] == [1_500_000 + number for number in range(60)]


def test_large_answers_at_once_all_come_through(channel: Channel) -> None:
    calls = [channel.begin("SizedLater", b"%d" % (4 * MIB + number)) for number in range(20)]

    assert [len(call.result()) for call in calls] == [4 * MIB + number for number in range(20)]


def test_empty_answers_come_through_behind_large_ones(channel: Channel) -> None:
    large = [channel.begin("Sized", b"%d" % (8 * MIB)) for _ in range(4)]
    empty = [channel.begin("Sized", b"0") for _ in range(50)]

    assert [call.result() for call in empty] == [b""] * 50
    assert [len(call.result()) for call in large] == [8 * MIB] * 4


def test_request_above_the_limit_is_refused_and_the_connection_lives(channel: Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary("Length", bytes(3 * MIB))

    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert channel.unary("Now", b"still here") == b"still here"


def test_gzip_requests_are_taken(channel: Channel) -> None:
    request = bytes(1_000_000)
    call = channel.grpc.unary_unary("/test.Echo/Length")

    assert call(request, timeout=WAIT, compression=grpc.Compression.Gzip) == b"1000000"


def test_gzip_bomb_is_refused(channel: Channel) -> None:
    call = channel.grpc.unary_unary("/test.Echo/Length")
    with pytest.raises(grpc.RpcError) as failure:
        call(bytes(64 * MIB), timeout=WAIT, compression=grpc.Compression.Gzip)

    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(gzip.compress(bytes(64 * MIB))) < 100_000


def test_unix_socket_serves_and_goes_with_the_server(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "kine.sock"
    running = serve(addresses=[f"unix://{path}"])

    assert path.stat().st_mode & 0o777 == 0o600
    with Channel(f"unix://{path}") as channel:
        assert json.loads(channel.unary("Call"))["peer"].startswith("unix:")
    with pytest.raises(OSError, match="another server"):
        serve(addresses=[f"unix://{path}"])
    running.close()
    assert not path.exists()
