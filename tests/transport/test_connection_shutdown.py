"""Connection shutdown, by either end: the peer learns why, handlers end, the log stays clean."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.transport.test_frames import PREFACE, block, data, frame, headers, number, settings
from tests.transport.transport_thread import WAIT, Channel

if TYPE_CHECKING:
    from tests.transport.sample_routes import Seen
    from tests.transport.transport_thread import Served

TOO_LONG_A_PING = frame(6, payload=bytes(6))


@pytest.fixture(params=["http2", "http2-asyncio"], scope="package")
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def call(stream: int, path: str, message: bytes, flags: int = 1) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return headers(block(base=fields), 4, stream) + data(
        b"\0" + number(len(message)) + message, flags, stream
    )


def connect(server: Served) -> socket.socket:
    client = socket.create_connection(server.endpoint, WAIT)
    client.sendall(PREFACE + settings())
    return client


def read_all(client: socket.socket) -> bytes:
    received = b""
    while more := client.recv(65536):
        received += more
    return received


def test_error_ends_running_calls_and_is_told(server: Served, seen: Seen) -> None:
    with connect(server) as client:
        client.sendall(call(1, "/test.Echo/Hang", b"ended") + call(3, "/test.Stream/Pour", b"poured"))
        assert seen["ended begun"].wait(WAIT)
        client.sendall(call(5, "/test.Echo/Later", b"x") + TOO_LONG_A_PING + call(7, "/test.Echo/Now", b""))

        assert b"PING has eight bytes" in read_all(client)
        assert seen["ended cancelled"].wait(WAIT)
        assert seen["poured cancelled"].wait(WAIT)


def test_bytes_after_the_error_are_of_no_interest(server: Served) -> None:
    with connect(server) as client:
        client.sendall(TOO_LONG_A_PING + bytes(1_000_000))

        assert b"PING has eight bytes" in read_all(client)


def test_peer_that_is_gone_is_answered_nothing(server: Served) -> None:
    for _ in range(50):
        client = connect(server)
        client.sendall(b"".join(call(stream, "/test.Echo/Later", b"x") for stream in range(1, 41, 2)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by reset
        client.close()

    with Channel(server.address) as channel:
        assert channel.unary("Later", b"still here") == b"still here"


def test_storm_of_resets_ends_with_enhance_your_calm(server: Served) -> None:
    with connect(server) as client:
        storm = (
            call(stream, "/test.Echo/Hang", b"storm") + frame(3, 0, stream, number(8))
            for stream in range(1, 6400, 2)
        )
        client.sendall(b"".join(storm))

        assert b"too many streams reset" in read_all(client)
