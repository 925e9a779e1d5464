"""Third-party clients: curl (nghttp2) and python-hyper's h2; all other tests use grpcio."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.transport.raw_http2 import prefixed
from tests.transport.transport_thread import WAIT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transport.transport_thread import Served

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def curl(server: Served, path: str, *options: str) -> bytes:
    command = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", str(WAIT), *options]
    return subprocess.run(
        [*command, f"http://{server.address}{path}"], capture_output=True, check=True
    ).stdout


@needs_curl
@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_curl_calls_a_method(server: Served, tmp_path: Path, size: int) -> None:
    request, answer, heads = tmp_path / "request", tmp_path / "answer", tmp_path / "heads"
    request.write_bytes(prefixed(b"x" * size))
    head = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    curl(server, "/test.Echo/Now", *head, "--data-binary", f"@{request}", "-o", str(answer), "-D", str(heads))

    assert answer.read_bytes() == request.read_bytes()
    assert "grpc-status: 0" in heads.read_text()


@needs_curl
def test_curl_that_asks_for_a_page_is_told_what_this_is(transport: str, server: Served) -> None:
    if transport == "grpcio":
        pytest.skip("grpcio ends such a stream without a word")

    assert b"gRPC port" in curl(server, "/", "-w", "%{http_code}")
    assert curl(server, "/", "-w", "%{http_code}").endswith(b"405")


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_h2_calls_a_method_many_times(server: Served, size: int) -> None:
    h2 = pytest.importorskip("h2.connection")
    events = pytest.importorskip("h2.events")
    path = [(":method", "POST"), (":scheme", "http"), (":authority", "kine"), (":path", "/test.Echo/Later")]
    connection = h2.H2Connection()
    connection.initiate_connection()
    request = prefixed(b"x" * size)
    streams = range(1, 41, 2)
    left = dict.fromkeys(streams, request)
    answers = dict.fromkeys(streams, b"")
    status: dict[int, bytes] = {}
    with socket.create_connection(server.endpoint, WAIT) as client:
        for stream in streams:
            connection.send_headers(stream, [*path, ("te", "trailers"), ("content-type", "application/grpc")])
        while len(status) < len(streams):
            for stream in tuple(left):
                while data := left[stream]:
                    room = min(connection.local_flow_control_window(stream), 16_384)
                    if room <= 0:
                        break
                    connection.send_data(stream, data[:room], end_stream=room >= len(data))
                    left[stream] = data[room:]
            client.sendall(connection.data_to_send())
            for event in connection.receive_data(client.recv(65_536)):
                if isinstance(event, events.DataReceived):
                    answers[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, events.TrailersReceived):
                    status[event.stream_id] = dict(event.headers)[b"grpc-status"]

    assert set(status.values()) == {b"0"}
    assert set(answers.values()) == {request}
