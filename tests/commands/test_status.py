"""`kine status` of a running server, of the database it serves from, and where no server runs."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.certificates import mutual_tls_flags, write_authority, write_pair
from tests.client import Client
from tests.commands.conftest import told
from tests.databases.process import free_port
from tests.remote.etcd_clusters import Etcds
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("commands")  # their databases are started once


def test_server_and_its_database_tell_the_same(database: str, tmp_path: Path) -> None:
    port = free_port()
    server = start_kine(database, "http2", tmp_path, flags=(f"--metrics-bind-address=127.0.0.1:{port}",))
    metrics = f"http://127.0.0.1:{port}"
    with Client(server.address) as client, client.watch() as watch:
        watch.create(b"/k")
        for number in range(10):
            last = client.put(b"/k", b"%d" % number).header.revision
        client.compact(last - 3)

        of_server = told(
            "status", "--endpoint", f"http://{server.address}", "--metrics", metrics, "-o", "json"
        )
        of_database = told("status", "--endpoint", database, "--metrics", metrics, "-o", "json")
    assert server.stop() == 0

    assert (of_server.code, of_database.code) == (0, 0), (of_server, of_database)
    for answer in (of_server.json, of_database.json):
        assert (answer["revision"], answer["compact_revision"], answer["lag"]) == (last, last - 3, 0)
        assert answer["watchers"] == 1
        assert answer["size"] > 0
    assert len(of_server.json["peers"]) == 1


def test_nothing_there_is_exit_code_1() -> None:
    found = told("status", "--endpoint", "sqlite:///nowhere/state.db")

    assert (found.code, found.err) == (
        1,
        "kine: there is no file /nowhere/state.db; name the database in --endpoint\n",
    )


def test_server_that_asks_for_certificates_is_told_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, (cert, key) = write_authority(tmp_path, authority), write_pair(tmp_path, authority)
    server = start_kine(
        f"sqlite://{tmp_path / 'state.db'}",
        "http2",
        tmp_path,
        flags=mutual_tls_flags(ca, cert, key),
    )
    endpoint = f"https://{server.address}"
    ours = ("--ca-file", ca, "--cert-file", cert, "--key-file", key)
    other = write_authority(tmp_path, trustme.CA(), "other")

    told_all = told("status", "--endpoint", endpoint, *ours, "-o", "json")
    refused = [
        told("status", "--endpoint", endpoint, *ours[2:], "--ca-file", other),
        told("status", "--endpoint", endpoint, "--ca-file", ca),
    ]
    in_the_clear = told("status", "--endpoint", server.address)
    server.stop()

    assert (told_all.code, told_all.json["revision"]) == (0, 2), told_all
    assert [found.code for found in refused] == [1, 1], refused
    # grpcio itself logs where several loops of one process have used it, as they do here.
    said = [[line for line in found.err.splitlines() if line.startswith("kine: ")] for found in refused]
    assert [len(lines) for lines in said] == [1, 1], refused
    assert all("could not connect to the server: 127.0.0.1:" in line for [line] in said), said
    assert all("--ca-file" in line for [line] in said), said
    assert f"if it speaks TLS, write https://{server.address}" in in_the_clear.err


def test_etcd_is_told_too(etcds: Etcds) -> None:
    running = etcds.etcd()
    with Client(running.address) as client:
        for number in range(10):
            last = client.put(b"/k", b"%d" % number).header.revision
        client.compact(last - 3)
    endpoint = f"http://{running.address}"

    found = told("status", "--endpoint", endpoint, "-o", "json")

    assert found.code == 0, found
    assert (found.json["revision"], found.json["compact_revision"], found.json["lag"]) == (last, last - 3, 0)
    assert found.json["peers"] == ["default http://127.0.0.1:0"]
    assert found.json["size"] >= found.json["size_in_use"] > 0


@pytest.mark.parametrize("command", [("status",), ("snapshot", "save", "never-made")])
@pytest.mark.parametrize("scheme", ["", "http://", "https://", "unix://"])
@pytest.mark.parametrize("skip_verify", [False, True])
def test_nothing_that_listens_is_told_without_advice_on_tls(
    command: tuple[str, ...], scheme: str, skip_verify: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"{tmp_path}/none.sock" if scheme == "unix://" else f"127.0.0.1:{free_port()}"
    flags = ("--skip-verify",) if skip_verify else ()

    found = told(*command, "--endpoint", f"{scheme}{address}", *flags)

    said = "\n".join(line for line in found.err.splitlines() if line.startswith("kine: "))
    assert found.code == 1
    assert f"nothing listens at {'unix:' if scheme == 'unix://' else ''}{address}; start it, or name" in said
    assert "-file" not in said
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_are_not_there_are_told_with_their_flag(tmp_path: Path) -> None:
    server = start_kine(f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path)
    nobody = f"http://127.0.0.1:{free_port()}"

    found = told("status", "--endpoint", server.address, "--metrics", nobody)
    wrong = told("status", "--endpoint", server.address, "--metrics", f"http://{server.address}/nowhere")

    assert server.stop() == 0
    advice = "name the server's --metrics-bind-address with --metrics"
    assert (found.code, wrong.code) == (1, 1)
    assert f"kine: no metrics at {nobody}/metrics: Connection refused; {advice}\n" in found.err
    assert "/nowhere/metrics: Not Found; " in wrong.err


ANSWERS = {
    "closes": b"",
    "is no HTTP": bytes(range(256)) * 8,
    "has no text": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    "has no metrics": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html {",
    "has no number": b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\nkine_revision +Inf",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_metrics_address_of_something_else_is_told_in_a_line(answer: str, tmp_path: Path) -> None:
    server = start_kine(f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path)
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(ANSWERS[answer])

        answered = pool.submit(answer_once)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        found = told("status", "--endpoint", f"http://{server.address}", "--metrics", url, "-o", "json")
        answered.result(60)
    assert server.stop() == 0

    assert found.code == 1
    assert found.json["error"].startswith(f"no metrics at {url}/metrics: ")
    assert found.json["error"].endswith("; name the server's --metrics-bind-address with --metrics")


@pytest.mark.parametrize("port", ["99999", "x", "-1"])
def test_a_metrics_address_that_cannot_be_is_told_in_a_line(port: str, tmp_path: Path) -> None:
    database = f"sqlite://{tmp_path / 'state.db'}"
    assert start_kine(database, "http2", tmp_path).stop() == 0

    found = told("status", "--endpoint", database, "--metrics", f"http://127.0.0.1:{port}")

    assert found.code == 1
    assert found.err.startswith(f"kine: no metrics at http://127.0.0.1:{port}/metrics: ")
