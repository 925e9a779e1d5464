"""NATS outages: nodes of three killed under load, a single server restarted, the embedded one killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, prefix_end
from tests.databases import nats
from tests.servers.kine import start_kine
from tests.servers.process import Instance
from tests.txn_ops import put

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("nats-faults"),
    pytest.mark.skipif(bool(nats.missing()), reason=nats.missing() or "-"),
]
PREFIX = b"/registry/nats/"
PATIENCE = 60.0  # seconds


class Writers:
    """Each creates key after key, records what was acknowledged, and goes on after an error."""

    def __init__(self, address: str, count: int = 4) -> None:
        self._address = address
        self._stop = threading.Event()
        self.acknowledged: dict[bytes, int] = {}
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        number = 0
        with Client(self._address) as client:
            while not self._stop.is_set():
                number += 1
                key = PREFIX + b"%d/%d" % (writer, number)
                try:
                    self.acknowledged[key] = client.put(key, key).header.revision
                except grpc.RpcError:
                    time.sleep(0.05)

    def more(self, count: int, seconds: float = 60) -> None:
        """Waits until `count` more writes are acknowledged."""
        wanted = len(self.acknowledged) + count
        deadline = time.monotonic() + seconds
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, "writing did not go on"
            time.sleep(0.01)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def judge(instance: Instance, first: int, acknowledged: dict[bytes, int], watch: object) -> None:
    with Client(instance.address) as client:
        head = client.put(PREFIX + b"last", b"").header.revision
        present = {item.key: item.mod_revision for item in client.range(PREFIX, prefix_end(PREFIX)).kvs}
    seen: list[tuple[bytes, int]] = []
    while not seen or seen[-1][1] < head:
        answer = watch.receive()  # type: ignore[attr-defined]
        assert not answer.canceled, answer
        seen += [(event.kv.key, event.kv.mod_revision) for event in answer.events]
    revisions = [revision for _, revision in seen]
    assert revisions == sorted(set(revisions))
    assert {key: present.get(key) for key in acknowledged} == acknowledged
    assert dict(seen) == present


@pytest.mark.engines
def test_a_node_killed_and_restarted_loses_no_write_and_no_event(tmp_path: Path) -> None:
    cluster = nats.Nats(3)
    instance = start_kine(cluster.endpoint("kine"), "http2", tmp_path)
    try:
        with Client(instance.address) as client, client.watch() as watch:
            first = client.revision() + 1
            watch.create(PREFIX, prefix_end(PREFIX), start_revision=first)
            writers = Writers(instance.address)
            for server in cluster.servers[:2]:
                writers.more(50)
                server.kill()
                writers.more(50)
                server.start()
            writers.more(50)
            writers.end()
            judge(instance, first, writers.acknowledged, watch)
    finally:
        instance.kill()
        cluster.stop()


@pytest.mark.engines
def test_a_leader_that_is_cut_off_answers_no_stale_read(tmp_path: Path) -> None:
    """JetStream itself lets it lead for ten seconds and more; the others elect a new leader after four."""
    cluster = nats.Nats(3, divisible=True)
    instances: list[Instance] = []
    try:
        instances.append(start_kine(cluster.endpoint("kine"), "http2", tmp_path / "all"))
        leader = int(cluster.api("STREAM.INFO.KV_kine")["cluster"]["leader"].removeprefix("n"))
        ports = [cluster.ports[leader], cluster.ports[leader - 1]]
        instances += [
            start_kine(cluster.endpoint("kine", ports=[port]), "http2", tmp_path / str(port))
            for port in ports
        ]
        key = PREFIX + b"cut"
        with Client(instances[1].address) as alone, Client(instances[2].address) as among_many:
            among_many.put(key, b"before")
            assert alone.get(key).value == b"before"
            cluster.isolate(leader)
            patiently(lambda: among_many.put(key, b"after"))
            answered = [alone_reads(alone, key, until=time.monotonic() + 5)]
            cluster.join()
            patiently(lambda: alone.get(key))
            answered.append({alone.get(key).value})
            patiently(lambda: alone.put(key, b"last"))
            assert among_many.get(key).value == b"last"
        assert answered == [set(), {b"after"}]
    finally:
        for instance in instances:
            instance.kill()
        cluster.stop()


def patiently(work: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            work()
        except grpc.RpcError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def alone_reads(client: Client, key: bytes, *, until: float) -> set[bytes]:
    """The values that the isolated leader's client reads meanwhile."""
    found = set()
    while time.monotonic() < until:
        with contextlib.suppress(grpc.RpcError):
            found.add(client.get(key).value)
        time.sleep(0.05)
    return found


def test_a_server_that_was_away_is_used_again(tmp_path: Path) -> None:
    server = nats.Nats()
    instance = start_kine(server.endpoint("kine"), "http2", tmp_path)
    try:
        with Client(instance.address) as client, client.watch() as watch:
            first = client.revision() + 1
            watch.create(PREFIX, prefix_end(PREFIX), start_revision=first)
            writers = Writers(instance.address)
            writers.more(50)
            server.servers[0].kill()
            with pytest.raises(grpc.RpcError) as refused:
                client.range(PREFIX + b"absent")
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            server.servers[0].start()
            writers.more(50)
            writers.end()
            judge(instance, first, writers.acknowledged, watch)
    finally:
        instance.kill()
        server.stop()


def test_the_embedded_server_is_started_again_and_ends_with_kine(tmp_path: Path) -> None:
    instance = start_kine(f"nats://?dataDir={tmp_path / 'nats'}", "http2", tmp_path)
    [child] = children(instance.process.pid)
    with Client(instance.address) as client, client.watch() as watch:
        first = client.revision() + 1
        watch.create(PREFIX, prefix_end(PREFIX), start_revision=first)
        writers = Writers(instance.address)
        writers.more(50)
        os.kill(child, signal.SIGKILL)
        writers.more(50)
        writers.end()
        judge(instance, first, writers.acknowledged, watch)
    [again] = children(instance.process.pid)
    assert again != child
    instance.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{again}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{again}/exe")


def children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.engines
def test_a_compaction_goes_on_when_the_server_does_not_answer_for_a_while(tmp_path: Path) -> None:
    """As when other instances read the whole bucket at their start, on a busy machine."""
    server = nats.Nats(1)
    instance = start_kine(server.endpoint("kine"), "http2", tmp_path)
    node = server.servers[0]
    try:
        with Client(instance.address) as client, ThreadPoolExecutor(1) as pool:
            for start in range(0, 3_000, 100):
                keys = [b"/k/%d" % number for number in range(start, start + 100)]
                for _ in range(2):
                    client.txn([], [put(key) for key in keys])
            last = client.revision()
            held = messages(server)
            request = pb.CompactionRequest(revision=last)
            compacting = pool.submit(
                client.call, "KV/Compact", request, pb.CompactionResponse, timeout=PATIENCE
            )
            while messages(server) == held:
                pass
            node.suspend()
            # Longer than the timeout of a request, and shorter than that of the connection.
            assert not wait([compacting], timeout=7).done, compacting.exception()
            node.resume()
            compacting.result(PATIENCE)

            assert messages(server) <= 3_000 + 10
            assert client.get(keys[0]).version == 2
    finally:
        node.resume()
        assert instance.stop() == 0
        server.stop()


def messages(server: nats.Nats) -> int:
    state = server.api("STREAM.INFO.KV_kine")["state"]
    assert isinstance(state, dict)
    return int(state["messages"])
