"""Advertised client addresses: in MemberList, and in the log line that launchers wait for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.certificates import write_pair
from tests.client import Client
from tests.servers import etcd
from tests.servers.kine import TRANSPORTS, start_kine
from tests.servers.process import Instance


def available(line: str) -> str | None:
    found = re.search(r"Kine available at ([^\s\"]+)", line)
    return found[1] if found else None


@pytest.fixture(params=TRANSPORTS)
def on_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    """A server started with a path relative to its working directory, as Go kine's own default is."""
    server = start_kine("memory://", request.param, tmp_path, flags=("--listen-address=unix://kine.sock",))
    yield server
    server.stop()


def test_members_of_a_server_on_a_socket_are_found_from_anywhere(on_socket: Instance) -> None:
    path = on_socket.directory / "kine.sock"
    with Client(f"unix:{path}") as client:
        (member,) = client.members().members

    assert list(member.clientURLs) == [f"unix://{path}"]
    with Client(member.clientURLs[0]) as client:
        assert client.revision()


@pytest.mark.skipif(bool(etcd.missing()), reason="etcdctl comes with etcd")
def test_etcdctl_finds_the_cluster_of_a_server_on_a_socket(on_socket: Instance) -> None:
    etcdctl = shutil.which("etcdctl", path=Path(sys.executable).parent) or "etcdctl"
    endpoint = f"--endpoints=unix://{on_socket.directory / 'kine.sock'}"

    told = subprocess.run(
        [etcdctl, endpoint, "endpoint", "status", "--cluster"], capture_output=True, text=True, timeout=60
    )

    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(endpoint.partition("=")[2] + ",")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_ready_line_tells_the_port(transport: str, tmp_path: Path) -> None:
    server = start_kine("memory://", transport, tmp_path, flags=("--log-format=plain",), until=available)

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.address)
    with Client(server.address.removeprefix("http://")) as client:
        assert client.revision()
    server.stop()


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        (("--listen-address=:0", "--log-format=plain"), r"http://127\.0\.0\.1:\d+"),
        (("--listen-address=tcp://[::1]:0",), r"http://\[::1\]:\d+"),
        (("--listen-address=unix://kine.sock", "--log-format=plain"), r"unix://kine\.sock"),
        (("--workers=2", "--endpoint=sqlite://state.db"), r"http://127\.0\.0\.1:\d+"),
    ],
    ids=["any", "ipv6", "socket", "workers"],
)
def test_the_ready_line_is_go_kines(tmp_path: Path, flags: tuple[str, ...], url: str) -> None:
    server = start_kine("memory://", "http2", tmp_path, flags=flags, until=available)

    assert re.fullmatch(url, server.address)
    server.stop()


def test_the_ready_line_of_a_server_with_tls(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, trustme.CA())
    flags = (f"--server-cert-file={cert}", f"--server-key-file={key}")
    server = start_kine("memory://", "http2", tmp_path, flags=flags, until=available)

    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", server.address)
    server.stop()
