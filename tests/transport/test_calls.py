"""Unary calls."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.transport.base import Code
from tests.transport.sample_routes import SECRET
from tests.transport.transport_thread import WAIT, Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transport.sample_routes import Seen
    from tests.transport.transport_thread import Served


@pytest.mark.parametrize("method", ["Now", "Later"])
@pytest.mark.parametrize("size", [0, 1, 60, 16_379, 16_384, 70_000, 1_500_000])
def test_request_comes_back_as_it_was(channel: Channel, method: str, size: int) -> None:
    request = bytes(range(256)) * (size // 256 + 1)

    assert channel.unary(method, request[:size]) == request[:size]


@pytest.mark.parametrize("method", ["Pieces", "PiecesLater"])
@pytest.mark.parametrize("sizes", ["0", "1 0 2", "16379 16384", "114688 114688 7", "3000000 114000 1 60000"])
def test_answer_in_pieces_comes_whole(channel: Channel, method: str, sizes: str) -> None:
    expected = b"".join(b"%c" % (97 + place) * int(size) for place, size in enumerate(sizes.split()))

    assert channel.unary(method, sizes.encode()) == expected


def test_many_calls_at_once_get_their_own_answers(channel: Channel) -> None:
    calls = [channel.begin("Later" if number % 2 else "Now", b"%d" % number) for number in range(500)]

    assert [call.result() for call in calls] == [b"%d" % number for number in range(500)]


def test_calls_from_several_connections_get_their_own_answers(server: Served) -> None:
    def ask(number: int) -> bytes:
        with Channel(server.address) as channel:
            return channel.unary("Later", b"%d" % number)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(40))) == [b"%d" % number for number in range(40)]


# ---- errors


@pytest.mark.parametrize("method", ["Fail", "FailLater"])
@pytest.mark.parametrize("code", [code for code in Code if code != Code.OK])
def test_error_reaches_the_client_with_code_and_text(channel: Channel, method: str, code: Code) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary(method, b"%d etcdserver: mvcc: required revision has been compacted" % code)

    assert failure.value.code().value[0] == code
    assert failure.value.details() == "etcdserver: mvcc: required revision has been compacted"


@pytest.mark.parametrize(
    "text",
    ["", "100% of it", "naïve 漢字 🙂", "line\r\nbreak\ttab\0nul", "%41 is no A", " spaces ", "x" * 5000],
    ids=["empty", "percent", "unicode", "control", "looks-encoded", "spaces", "long"],
)
def test_error_text_arrives_as_it_is(channel: Channel, text: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary("Fail", f"5 {text}".encode())

    assert failure.value.details() == text


@pytest.mark.parametrize("method", ["Crash", "CrashLater"])
def test_fault_of_a_handler_is_internal_and_tells_nothing(
    channel: Channel, method: str, errors: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary(method)

    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert SECRET not in failure.value.details()
    assert len(errors()) == 1
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/test.Echo/Nothing", "unknown method Nothing for service test.Echo"),
        ("/test.Nothing/Now", "unknown service test.Nothing"),
    ],
)
def test_method_without_route_is_unimplemented(channel: Channel, path: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.grpc.unary_unary(path)(b"request", timeout=WAIT)

    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert failure.value.details() == text


def test_method_without_route_is_unimplemented_for_a_large_request(channel: Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.grpc.unary_unary("/test.Nothing/Now")(bytes(1_500_000), timeout=WAIT)

    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---- what a handler knows of its call


def test_handler_sees_method_and_peer(channel: Channel) -> None:
    seen = json.loads(channel.unary("Call"))

    assert seen["method"] == "/test.Echo/Call"
    assert seen["peer"].startswith("ipv4:127.0.0.1:")


def test_handler_sees_no_deadline_where_there_is_none(channel: Channel) -> None:
    assert json.loads(channel.unary("Call", timeout=None))["left"] is None


def test_handler_sees_the_deadline(channel: Channel) -> None:
    assert 20 < json.loads(channel.unary("Call", timeout=30))["left"] < 31  # rounded up on its way


def test_handler_sees_metadata(channel: Channel) -> None:
    metadata = [("hasleader", "true"), ("twice", "a"), ("twice", "b"), ("empty", "")]

    seen = json.loads(channel.unary("Call", metadata=metadata))["metadata"]

    assert {name: seen[name] for name in ("hasleader", "twice", "empty")} == {
        "hasleader": "true",
        "twice": "a,b",
        "empty": "",
    }


def test_handler_sees_binary_metadata_as_base64(channel: Channel) -> None:
    seen = json.loads(channel.unary("Call", metadata=[("trace-bin", b"\x00\xff\x10")]))["metadata"]

    assert base64.b64decode(seen["trace-bin"] + "==") == b"\x00\xff\x10"


def test_metadata_of_the_size_tokens_have_is_taken(channel: Channel) -> None:
    token = "a1-" * 2000  # over one frame's worth with the rest

    seen = json.loads(channel.unary("Call", metadata=[("token", token)]))["metadata"]

    assert seen["token"] == token


# ---- deadlines and cancellation


def test_deadline_ends_the_call_and_cancels_its_handler(channel: Channel, seen: Seen) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        channel.unary("Hang", b"late", timeout=0.2)

    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert seen["late cancelled"].wait(WAIT)


def test_cancelled_call_cancels_its_handler(channel: Channel, seen: Seen) -> None:
    call = channel.begin("Hang", b"unwanted")
    assert seen["unwanted begun"].wait(WAIT)

    call.cancel()

    assert seen["unwanted cancelled"].wait(WAIT)
    assert channel.unary("Now", b"still here") == b"still here"


def test_lost_connection_cancels_its_handlers(server: Served, seen: Seen) -> None:
    with Channel(server.address) as channel:
        call = channel.begin("Hang", b"lost")
        assert seen["lost begun"].wait(WAIT)

    assert seen["lost cancelled"].wait(WAIT)
    assert call.code() == grpc.StatusCode.CANCELLED
