"""Timeouts and shutdown of connections: pings, handshakes, deadlines, a stop, memory, TLS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme

from kine.tls import Tls
from kine.transport.base import Limits
from kine.transport.http2 import frames
from kine.transport.http2.connection import Connection
from kine.transport.http2.receive_flow import STREAM_WINDOW
from tests.certificates import write_authority, write_pair
from tests.transport.raw_http2 import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Wire,
    body,
    call,
    frame,
    head,
    prefixed,
)
from tests.transport.test_frames import CALM, REFUSED, RST, Silent, told
from tests.transport.transport_thread import WAIT, Channel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transport.conftest import Serve
    from tests.transport.sample_routes import Seen
    from tests.transport.transport_thread import Served

NOW, HANG, COLLECT = "/test.Echo/Now", "/test.Echo/Hang", "/test.Stream/Collect"
LATE = b"grpc-status\x014"
EIGHT = b"12345678"


@pytest.fixture(params=["http2", "http2-asyncio"], scope="package")
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- pings


def test_silent_client_that_answers_pings_stays(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kine.transport.http2.server._HOUSEKEEPING", 0.1)
    server = serve(limits=Limits(keepalive_interval=0.1, keepalive_timeout=WAIT))
    with Wire(server.address) as wire:
        pings = 0
        for got in wire.frames():
            if got.kind == PING:
                pings += 1
                wire.send(frame(PING, ACK, 0, got.payload))
                if pings == 3:
                    break
        wire.send(call(1, NOW, b"still here"))

        assert OK in wire.answers(1)[1]


def test_silent_client_that_answers_no_ping_is_dropped(serve: Serve, seen: Seen) -> None:
    server = serve(limits=Limits(keepalive_interval=1.0, keepalive_timeout=0.2))
    with Wire(server.address) as wire:
        wire.send(call(1, HANG, b"dropped"))
        assert server.seen["dropped begun"].wait(WAIT)

        assert [got.kind for got in wire.frames()][-1] == PING
    assert server.seen["dropped cancelled"].wait(WAIT)


def test_too_many_pings_end_the_connection(server: Served) -> None:
    with Wire(server.address) as wire:
        wire.send(*[frame(PING, 0, 0, EIGHT)] * 4)

        assert wire.goodbye() == (CALM, b"too_many_pings")


def test_pings_are_answered_as_often_as_the_policy_allows(serve: Serve) -> None:
    server = serve(limits=Limits(keepalive_min_interval=0))
    with Wire(server.address) as wire:
        wire.send(call(1, HANG, b"pinged"), *[frame(PING, 0, 0, EIGHT)] * 50)
        answered = 0
        for got in wire.frames():
            answered += got[:2] == (PING, ACK) and got.payload == EIGHT
            if answered == 50:
                break

        assert answered == 50


# ---- handshakes


@pytest.mark.parametrize(
    "said", [b"", b"PRI * HTTP/2.0\r\n", frames.PREFACE], ids=["nothing", "half", "no SETTINGS"]
)
def test_client_that_does_not_begin_is_dropped(serve: Serve, said: bytes) -> None:
    server = serve(limits=Limits(handshake_timeout=1.0))
    with Wire(server.address, greet=False) as wire:
        wire.send(said)

        assert GOAWAY not in [got.kind for got in wire.frames()]


def test_client_that_does_not_shake_hands_is_dropped(serve: Serve, tmp_path: Path) -> None:
    tls = Tls(*write_pair(tmp_path, trustme.CA()))
    server = serve(tls=tls, limits=Limits(handshake_timeout=1.0))
    with socket.create_connection(server.endpoint, WAIT) as client:
        assert client.recv(1) == b""


# ---- deadlines


@pytest.mark.parametrize("came", [0, 3, 50, 16_000])
def test_deadline_counts_while_the_request_is_incomplete(server: Served, came: int) -> None:
    with Wire(server.address) as wire:
        part = frame(DATA, 0, 1, prefixed(bytes(70_000))[:came])
        wire.send(head(1, NOW, ("grpc-timeout", "50m")), part if came else b"")
        assert LATE in wire.answers(1)[1]

        wire.send(call(3, NOW, b"still here"))
        assert OK in wire.answers(1)[3]


def test_request_that_is_complete_in_time_is_answered(server: Served) -> None:
    whole = prefixed(b"x" * 100)
    with Wire(server.address) as wire:
        for piece in (head(1, NOW, ("grpc-timeout", "1M")), frame(DATA, 0, 1, whole[:50])):
            wire.send(piece, frame(PING, 0, 0, EIGHT))
            next(got for got in wire.frames() if got[:2] == (PING, ACK))
        wire.send(frame(DATA, END_STREAM, 1, whole[50:]))

        assert OK in wire.answers(1)[1]


def test_malformed_deadline_fails_a_request_that_is_incomplete(server: Served) -> None:
    with Wire(server.address) as wire:
        wire.send(head(1, NOW, ("grpc-timeout", "soon")))

        assert b"malformed grpc-timeout" in wire.answers(1)[1]


# ---- the end


def test_stop_tells_twice_and_lets_a_running_call_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kine.transport.http2.server._LAST_CALL", WAIT)  # only the ping's answer shows it
    server = serve()
    with Wire(server.address) as wire:
        wire.send(call(1, COLLECT, b"one", 0))
        stopping = threading.Thread(target=server.stop, args=(WAIT / 2,))
        next(got for got in wire.frames() if got.kind == WINDOW_UPDATE or got.kind == SETTINGS)
        stopping.start()
        first = next(got for got in wire.frames() if got.kind == GOAWAY)
        ping = next(got for got in wire.frames() if got.kind == PING)
        wire.send(call(3, NOW, b"not told yet"))
        assert OK in wire.answers(1)[3]

        wire.send(frame(PING, ACK, 0, ping.payload))
        second = next(got for got in wire.frames() if got.kind == GOAWAY)
        wire.send(call(5, NOW, b"told"))
        refused = next(got for got in wire.frames() if got.kind == RST_STREAM)
        wire.send(body(1, b"two"))
        rest = list(wire.frames())
        stopping.join(WAIT)

    assert [int.from_bytes(told.payload[:4], "big") for told in (first, second)] == [2**31 - 1, 3]
    assert refused.stream == 5
    assert int.from_bytes(refused.payload, "big") == REFUSED
    assert b"[3, 3]" in b"".join(got.payload for got in rest if got.kind == DATA)
    assert any(got.kind == HEADERS and got.flags & END_STREAM and OK in got.payload for got in rest)


# ---- memory


def test_window_full_of_halves_makes_room_for_others() -> None:
    connection = Connection(Silent(), Limits())
    connection.receive(frames.PREFACE + frame(4), 0.0)
    connection.out.take()
    half = bytes(STREAM_WINDOW // 4)
    for stream in range(1, 3201, 2):
        pieces = [frame(DATA, 0, stream, half) for _ in range(4 if stream == 1 else 3)]
        connection.receive(head(stream, NOW) + b"".join(pieces), 0.0)
        if 1 not in connection.streams:
            break

    assert not connection.closed
    assert told(connection)[0] == (RST, CALM)  # the stream that held the most
    assert stream > 1000


def test_large_answers_asked_for_at_once_are_made_one_after_the_other(serve: Serve, seen: Seen) -> None:
    server = serve()
    size = 40 * 1024 * 1024
    with Wire(server.address) as wire, Channel(server.address) as other:
        wire.send(*(call(stream, "/test.Echo/Roomy", b"%d" % size) for stream in range(1, 9, 2)))
        assert server.seen["first made"].wait(WAIT)
        for _ in range(20):
            assert other.unary("Later", b"x") == b"x"

        assert server.seen.sent["made"] == 1
        answers = wire.answers(4)

    assert all(OK in answer for answer in answers.values())
    assert server.seen.sent["made"] == 4


def test_large_answers_nobody_waits_for_make_way(serve: Serve) -> None:
    server = serve()
    size = 40 * 1024 * 1024
    with Wire(server.address) as wire:
        wire.send(*(call(stream, "/test.Echo/Roomy", b"%d" % size) for stream in range(1, 9, 2)))
        assert server.seen["first made"].wait(WAIT)
        wire.send(*(frame(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in range(1, 7, 2)))

        assert OK in wire.answers(1)[7]


# ---- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def mutual(serve: Serve, authority: trustme.CA, tmp_path: Path) -> Served:
    cert, key = write_pair(tmp_path, authority)
    return serve(tls=Tls(cert, key, write_authority(tmp_path, authority)))


def client_context(authority: trustme.CA, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("client").configure_cert(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def test_client_with_a_certificate_is_served(mutual: Served, authority: trustme.CA) -> None:
    mine = authority.issue_cert("client")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    )
    with Channel(mutual.address, credentials) as channel:
        assert channel.unary("Now", bytes(1_000_000)) == bytes(1_000_000)


@pytest.mark.parametrize("stranger", [None, "other authority"])
def test_client_without_a_certificate_of_ours_is_refused(
    mutual: Served, authority: trustme.CA, stranger: str | None
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    if stranger:
        trustme.CA().issue_cert("client").configure_cert(context)
    received = b""
    with (
        socket.create_connection(mutual.endpoint, WAIT) as plain,
        contextlib.suppress(OSError),  # TLS 1.3 reports it at the first read, by an alert or the end
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(frames.PREFACE + frame(4) + call(1, NOW, b"let me in"))
        received = client.recv(65_536)

    assert received == b""


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("foo",)], ids=["none", "http/1.1", "unknown"])
def test_http2_without_alpn_is_refused_with_a_reason(
    mutual: Served, authority: trustme.CA, alpn: tuple[str, ...]
) -> None:
    context = client_context(authority, *alpn)
    with (
        socket.create_connection(mutual.endpoint, WAIT) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(frames.PREFACE + frame(4))
        received = b""
        while more := client.recv(65_536):
            received += more

    assert b"h2 was not agreed on by ALPN" in received


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls_is_not_renegotiated(serve: Serve, authority: trustme.CA, tmp_path: Path) -> None:
    server = serve(tls=Tls(*write_pair(tmp_path, authority)))
    run = subprocess.run(
        ["openssl", "s_client", "-connect", server.address, "-tls1_2", "-alpn", "h2"],
        input="R\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
    )

    assert "RENEGOTIATING" in run.stdout + run.stderr
    assert "no renegotiation" in run.stderr
