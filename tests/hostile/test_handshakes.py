"""TLS handshakes that fail or never finish, on every listener of both transports."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme

from tests.certificates import write_authority, write_pair
from tests.client import Client
from tests.databases.process import free_port
from tests.hostile.harness import WAIT
from tests.servers.kine import TRANSPORTS, start_kine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.process import Instance

FAILURES = 200


class Secured:
    """A server with TLS on both of its addresses."""

    def __init__(self, instance: Instance, metrics: str, credentials: grpc.ChannelCredentials) -> None:
        self.instance = instance
        self.addresses = [instance.address, metrics]
        self._credentials = credentials

    def serves(self) -> None:
        with Client(self.instance.address, self._credentials, WAIT) as client:
            client.put(b"k", b"v")

    @property
    def lines(self) -> list[str]:
        return self.instance.log.read_text().splitlines()


@pytest.fixture(params=TRANSPORTS)
def secured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secured]:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    issued = authority.issue_cert("client")
    metrics = f"127.0.0.1:{free_port()}"
    flags = (
        f"--server-cert-file={cert}",
        f"--server-key-file={key}",
        f"--trusted-ca-file={write_authority(tmp_path, authority)}",
        f"--metrics-bind-address={metrics}",
    )
    instance = start_kine("memory://", request.param, tmp_path, flags=flags)
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    )
    yield Secured(instance, metrics, credentials)
    assert instance.running
    instance.kill()


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), WAIT)


def test_handshakes_that_fail_cost_a_bounded_number_of_log_lines(secured: Secured) -> None:
    before = len(secured.lines)
    for _ in range(FAILURES):
        for address in secured.addresses:
            with connected(address) as client, contextlib.suppress(ConnectionError):
                client.sendall(b"this is no TLS at all\r\n\r\n")
                while client.recv(65_536):
                    pass
    secured.serves()

    told = secured.lines[before:]
    assert len(told) < 30
    lines = list(map(json.loads, told))  # all in the log's JSON format
    failed = [line for line in lines if "handshake" in line["message"].lower()]
    assert failed
    assert [line for line in failed if "left_out" not in line] == []


@pytest.mark.engines
def test_handshake_that_stalls_ends(secured: Secured) -> None:
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(connected(address)) for address in secured.addresses]
        begun = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # an incomplete ClientHello
        clients += [opened.enter_context(connected(address)) for address in secured.addresses]
        for client in clients[2:]:
            client.sendall(begun)
        for client in clients:
            client.settimeout(60.0)  # grpcio's own limit is two minutes
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""
    secured.serves()
