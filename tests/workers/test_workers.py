"""Several worker processes on one address: what each sees of the others, and what happens when one exits."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from tests.certificates import trusting, write_authority, write_pair
from tests.client import DELETE, Client
from tests.databases.process import free_port
from tests.servers.kine import start_kine
from tests.servers.process import Instance, StartError

pytestmark = pytest.mark.xdist_group("workers")  # most tests share one server

PATIENCE = 60.0  # seconds, for what is waited for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    server = start(tmp_path_factory.mktemp("workers"))
    yield server
    assert server.stop() == 0


def start(directory: Path, *flags: str, endpoint: str = "", workers: int = 2) -> Instance:
    endpoint = endpoint or f"sqlite://{directory / 'state.db'}"
    server = start_kine(endpoint, "http2", directory, flags=(f"--workers={workers}", *flags))
    await_said(server, "worker serving", workers)  # the parent may log first that all serve
    return server


def workers_of(server: Instance) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def connections_of(worker: psutil.Process) -> int:
    return sum(connection.status == "ESTABLISHED" for connection in worker.net_connections())


def await_idle(server: Instance) -> None:
    """Waits until the parent counts no connections, and so assigns workers from the start again."""
    deadline = time.monotonic() + PATIENCE
    while any(worker.net_connections() for worker in workers_of(server)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(server: Instance, message: str) -> list[dict[str, Any]]:
    lines = server.log.read_text().splitlines()
    return [entry for line in lines if (entry := json.loads(line))["message"] == message]


def await_said(server: Instance, message: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE
    while len(found := said(server, message)) < count:
        assert time.monotonic() < deadline, f"{message!r} only {len(found)} times: {server.log.read_text()}"
        time.sleep(0.02)
    return found


def page(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as answer:
        return answer.read().decode()


def samples(text: str, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Values of a metric, by the given labels."""
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


@contextmanager
def clients(server: Instance, count: int) -> Iterator[list[Client]]:
    """Clients, each with its own connection; connections are distributed evenly."""
    await_idle(server)
    with ExitStack() as stack:
        opened = [stack.enter_context(Client(server.address)) for _ in range(count)]
        for client in opened:
            client.revision()
        yield opened


def test_connections_are_dealt_out_evenly(server: Instance) -> None:
    with clients(server, 6):
        assert [connections_of(worker) for worker in workers_of(server)] == [3, 3]


def test_all_workers_are_one_member(server: Instance) -> None:
    with clients(server, 2) as (one, other):
        headers = [client.status().header for client in (one, other)]

    assert headers[0].cluster_id == headers[1].cluster_id != 0
    assert headers[0].member_id == headers[1].member_id != 0


def test_what_one_writes_another_reads_and_watches(server: Instance) -> None:
    with clients(server, 2) as (one, other), other.watch() as watch:
        watch.create(b"/seen/", b"/seen0")
        for number in range(50):
            revision = one.put(b"/seen/k", b"%d" % number).header.revision
            found = other.range(b"/seen/k")
            assert (found.kvs[0].value, found.header.revision) == (b"%d" % number, revision)

        values = [event.kv.value for event in watch.events(50)]

    assert values == [b"%d" % number for number in range(50)]


def test_a_lease_is_known_to_all_and_expires_once(server: Instance) -> None:
    with clients(server, 2) as (one, other), other.watch() as watch:
        watch.create(b"/leased")
        granted = [one.grant(60).ID, other.grant(5).ID]
        one.put(b"/leased", b"", lease=granted[1])
        assert granted[0] != granted[1]
        assert {*granted} <= one.leases()
        assert other.time_to_live(granted[0]).TTL >= 0

        _, deleted = watch.events(2)

        assert deleted.type == DELETE
        assert one.put(b"/leased").header.revision == deleted.kv.mod_revision + 1
        one.revoke(granted[0])


def await_granted(client: Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.grant(60)
            return
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_leases_that_many_connections_are_granted_are_bounded_over_all_workers(tmp_path: Path) -> None:
    most = 200
    server = start(tmp_path, f"--max-leases={most}")
    with ExitStack() as opened:
        clients = [opened.enter_context(Client(server.address)) for _ in range(4)]  # of both workers
        granted, refusals = list[int](), set[tuple[grpc.StatusCode, str]]()
        for number in range(2 * most):
            try:
                granted.append(clients[number % 4].grant(9_000_000_000).ID)
            except grpc.RpcError as error:
                refusals.add((error.code(), error.details()))
        counts = {len(client.leases()) for client in clients}
        assert counts == {len(granted)}
        assert most / 2 <= len(granted) <= most
        assert refusals == {
            (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "etcdserver: too many leases are granted: revoke some, or raise kine's --max-leases",
            )
        }
        for lease in granted:
            clients[0].revoke(lease)
        await_granted(clients[1])  # whose worker learns of it when it counts again
        await_granted(clients[0])
    assert server.stop() == 0


def test_metrics_of_all_workers_are_one_page_on_the_clients_port(server: Instance) -> None:
    with clients(server, 2) as (one, other), one.watch() as first, other.watch() as second:
        first.create(b"/counted")
        second.create(b"/counted")
        before = page(f"http://{server.address}/metrics")
        for _ in range(3):
            one.put(b"/counted", b"1")
            revision = other.put(b"/counted", b"2").header.revision
        first.events(6)
        second.events(6)
        after = page(f"http://{server.address}/metrics")

    labels = "grpc_method", "grpc_code"
    puts = [samples(text, "grpc_server_handled_total", *labels)["Put", "OK"] for text in (before, after)]
    assert puts[1] - puts[0] == 6
    assert all(samples(after, "process_start_time_seconds", "worker").values())
    assert samples(after, "kine_revision") == {(): revision}
    assert samples(after, "kine_watchers") == {(): 2}
    assert samples(after, "kine_workers") == {(): 2}
    assert set(samples(after, "process_resident_memory_bytes", "worker")) == {("1",), ("2",)}


def test_every_line_of_a_worker_tells_its_number(server: Instance) -> None:
    assert {entry["worker"] for entry in said(server, "worker serving")} == {1, 2}
    assert all(entry["revision"] for entry in said(server, "worker serving"))
    assert said(server, "serving")[0]["workers"] == 2


def test_a_killed_worker_is_replaced_while_the_other_serves(server: Instance) -> None:
    before = len(said(server, "worker serving"))
    with clients(server, 2) as both:
        killed = workers_of(server)[0]
        killed.kill()

        outcomes = {outcome_of_put(client) for client in both}  # one of them has lost its connection
        again = await_said(server, "worker serving", before + 1)[-1]

    ended = said(server, "a worker has ended, another takes its place")[-1]
    told = ended["worker"], ended["pid"], ended["ended_by"]
    assert grpc.StatusCode.OK in outcomes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert told == (again["worker"], killed.pid, "SIGKILL")
    with clients(server, 2) as both:
        assert [client.get(b"/k").value for client in both] == [b"after"] * 2  # type: ignore[union-attr]
        assert min(connections_of(worker) for worker in workers_of(server)) >= 1


def outcome_of_put(client: Client) -> grpc.StatusCode:
    try:
        client.put(b"/k", b"after")
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_connection_that_a_dying_worker_has_not_taken_goes_to_another(server: Instance) -> None:
    before = len(said(server, "worker serving"))
    stuck, _ = workers_of(server)
    stuck.suspend()
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_connection(server)) for _ in range(4)]
        for sock in sockets:
            sock.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        stuck.kill()

        answers = [sock.makefile("rb").read() for sock in sockets]

    assert [b'"health": "true"' in answer for answer in answers] == [True] * 4
    await_said(server, "worker serving", before + 1)


def open_connection(server: Instance) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def test_a_worker_told_to_stop_drains_and_is_replaced(server: Instance) -> None:
    before = len(said(server, "worker serving"))
    with clients(server, 2) as (one, other), one.watch() as first, other.watch() as second:
        first.create(b"/drained")
        second.create(b"/drained")
        workers_of(server)[0].terminate()

        await_said(server, "worker serving", before + 1)
        one.put(b"/drained")  # whichever it was connected to
        ended = []
        for stream in (first, second):
            try:
                stream.receive()
            except grpc.RpcError as error:
                ended.append(error.code())
    assert ended == [grpc.StatusCode.UNAVAILABLE]


def test_a_killed_parent_takes_its_workers_along(tmp_path: Path) -> None:
    server = start(tmp_path)
    workers = workers_of(server)
    port = int(server.address.rpartition(":")[2])
    with clients(server, 2):
        server.kill()

        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))  # at once: no worker had the listening socket
    gone, alive = psutil.wait_procs(workers, PATIENCE)

    assert (len(gone), alive) == (2, [])


def test_sigterm_drains_all_workers(tmp_path: Path) -> None:
    server = start(tmp_path)
    workers = workers_of(server)
    with clients(server, 2) as (one, other), one.watch() as first, other.watch() as second:
        first.create(b"/k")
        second.create(b"/k")
        os.kill(server.process.pid, signal.SIGTERM)
        for stream in (first, second):
            with pytest.raises(grpc.RpcError) as ended:
                stream.receive()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE

    assert server.process.wait(PATIENCE) == 0
    assert not any(worker.is_running() for worker in workers)
    assert len(said(server, "stopped")) == 3


@pytest.mark.parametrize(
    ("endpoint", "flags", "text"),
    [
        ("memory://", (), "lives in one process and cannot be shared"),
        ("nats://", (), "lives in one process and cannot be shared"),
        ("", ("--transport=grpcio",), "--workers needs --transport http2"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    endpoint: str, flags: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match=text):
        start(tmp_path, *flags, endpoint=endpoint)


def test_a_worker_that_cannot_start_ends_the_parent_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)

    with pytest.raises(StartError) as failed:
        start(tmp_path)

    lines = [json.loads(line) for line in str(failed.value).splitlines()[1:]]
    assert "(exit code 1)" in str(failed.value)
    assert [(line["severity"], line.get("worker")) for line in lines] == [("fatal", 1), ("fatal", None)]
    assert "worker 1 could not start" in lines[1]["message"]


def test_metrics_and_health_over_tls_and_clients_on_a_unix_socket(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_authority(tmp_path, authority)
    cert, key = write_pair(tmp_path, authority)
    metrics = f"127.0.0.1:{free_port()}"
    path = tmp_path / "kine.sock"
    server = start(
        tmp_path,
        f"--listen-address=unix://{path}",
        f"--metrics-bind-address={metrics}",
        f"--server-cert-file={cert}",
        f"--server-key-file={key}",
    )
    assert path.stat().st_mode & 0o777 == 0o600
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    options = (("grpc.ssl_target_name_override", "localhost"),)
    with grpc.secure_channel(f"unix:{path}", credentials, options) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
    trusted = trusting(authority)

    health = [page(f"https://{metrics}{path}", trusted) for path in ("/healthz", "/readyz")]
    text = page(f"https://{metrics}/metrics", trusted)

    assert health == ["ok\n", "ok\n"]
    assert samples(text, "kine_workers") == {(): 2}
    assert server.stop() == 0
    assert not path.exists()
