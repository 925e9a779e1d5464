"""Liveness probes succeed however many connections are open, on the metrics port and the clients'."""

from __future__ import annotations

import contextlib
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.hostile.harness import MIB, WAIT, await_that

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

CONNECTIONS = 70
SAID = {
    "nothing": b"",
    "half a request": b"GET /healthz HTTP/1.1\r\n",
    "a request, kept alive": b"GET /healthz HTTP/1.1\r\n\r\n",
    "answers not read": b"GET /metrics HTTP/1.1\r\n\r\n" * 4,
}
PAGES = {"/healthz": 200, "/readyz": 200, "/metrics": 200}


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), WAIT)


def ended(client: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        client.setblocking(False)
        try:
            while client.recv(65_536):
                pass
        except ConnectionResetError:
            pass
        return True
    return False


def test_pages_are_served_beside_silent_connections(target: Target) -> None:
    with target.probed(), ExitStack() as opened:
        for address in (target.metrics_address, target.address):
            for said in SAID:
                for _ in range(CONNECTIONS * target.scale):
                    client = opened.enter_context(connected(address))
                    with contextlib.suppress(OSError):  # it was already closed in favour of another
                        client.sendall(SAID[said])
                for _ in range(2):
                    assert {page: target.page(page)[0] for page in PAGES} == PAGES, (address, said)

    assert target.memory_growth < 64 * MIB


def test_requests_that_are_sent_ahead(target: Target) -> None:
    ahead = 300 * target.scale
    with target.probed() as probe, ExitStack() as opened:
        clients = [opened.enter_context(connected(target.metrics_address)) for _ in range(8)]
        for client in clients:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * ahead)
        probe.answers(5)
        for client in clients:
            received = b""
            while received.count(b"\r\n\r\nok\n") < ahead:
                part = client.recv(65_536)
                assert part, received[-300:]
                received += part
    assert target.metric("hostile_pages_per_turn") <= 2


def test_silent_connections_end(start_target: StartTarget) -> None:
    target = start_target(constants={"kine.observe.metrics_server.IDLE_TIMEOUT": 0.5})
    addresses = [target.metrics_address]
    if target.transport == "http2":  # grpcio's port speaks no HTTP/1.1
        addresses.append(target.address)
    with ExitStack() as opened:
        clients = [opened.enter_context(connected(address)) for address in addresses]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        for client in clients:
            await_that(lambda client=client: ended(client))
