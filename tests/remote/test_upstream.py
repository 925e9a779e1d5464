"""kine in front of a real etcd that restarts, is one of three, or sends faster than clients read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import CALL_TIMEOUT, EVERY_KEY, Client, refused
from tests.databases.process import free_port

if TYPE_CHECKING:
    from tests.remote.etcd_clusters import Etcds

PATIENCE = 60.0  # seconds for an election, a reconnection
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
LOST = "etcdserver: request timed out, possibly due to connection lost"


def put_until_taken(client: Client, key: bytes, value: bytes) -> None:
    """Retries as a client does while no server is reachable. The write may be applied more than once."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.call("KV/Put", pb.PutRequest(key=key, value=value), pb.PutResponse, timeout=1)
        except grpc.RpcError as error:
            if error.code() not in AGAIN or time.monotonic() > deadline:
                raise
        else:
            return


def test_watch_ends_when_etcd_goes_and_resumes_without_a_gap(etcds: Etcds) -> None:
    port = free_port()
    etcd = etcds.etcd(port=port)
    with Client(etcds.kine(f"http://127.0.0.1:{port}").address) as client:
        with client.watch() as watch:
            watch.create(b"k")
            first = client.put(b"k", b"1").header.revision
            assert watch.events(1)[0].kv.value == b"1"

            etcd.kill()
            with refused(grpc.StatusCode.UNAVAILABLE, LOST):
                watch.receive()
        with refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster"):
            client.get(b"k")

        etcds.etcd(port=port)
        put_until_taken(client, b"k", b"2")
        with client.watch() as again:
            again.create(b"k", start_revision=first + 1)
            assert again.receive().events[0].kv.value == b"2"


def test_calls_go_to_another_member_when_one_is_killed(etcds: Etcds) -> None:
    members = etcds.cluster()
    server = etcds.kine(",".join(f"http://{member.address}" for member in members))
    with Client(server.address) as client:
        put_until_taken(client, b"k", b"before")

        for victim in members[:2]:
            with client.watch() as watch:
                watch.create(b"k")
                victim.kill()
                put_until_taken(client, b"k", b"after")
            assert client.get(b"k").value == b"after"  # type: ignore[union-attr]
            victim.process = etcds.again(victim).process


def test_start_waits_for_etcd_and_says_so(etcds: Etcds) -> None:
    said = etcds.waiting_kine(f"http://127.0.0.1:{free_port()}")

    assert "waiting for etcd, 0 s of 300 s so far" in said


def test_large_list_and_snapshot_come_whole(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    with Client(etcds.kine(f"http://{etcd.address}").address) as client:
        value = bytes(range(256)) * 4096  # 1 MiB
        for number in range(24):
            client.put(b"large/%02d" % number, value)

        answer = client.range(b"large/", b"large0")
        blobs = b"".join(part.blob for part in client.snapshot())

    assert [kv.value for kv in answer.kvs] == [value] * 24
    assert len(blobs) > 24 * len(value)


def test_slow_reader_gets_every_event_and_stops_nobody(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    with Client(etcds.kine(f"http://{etcd.address}").address) as client:
        value = bytes(200_000)
        with client.watch() as slow:
            slow.create(b"slow/", b"slow0")
            slow.pause()
            for number in range(100):
                client.put(b"slow/%03d" % number, value)
            slow.resume()

            keys = [event.kv.key for event in slow.events(100)]

    assert keys == [b"slow/%03d" % number for number in range(100)]


def test_stop_ends_streams_so_that_clients_come_again(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    server = etcds.kine(f"http://{etcd.address}")
    with Client(server.address) as client, client.watch() as watch:
        watch.create(b"k")

        assert server.stop() == 0

        with refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped"):
            watch.receive()


def test_token_and_deadline_reach_etcd(etcds: Etcds) -> None:
    etcd = etcds.etcd()
    with Client(etcds.kine(f"http://{etcd.address}").address) as client:
        client.call("Auth/UserAdd", pb.AuthUserAddRequest(name="root", password="pw"), pb.AuthUserAddResponse)
        grant = pb.AuthUserGrantRoleRequest(user="root", role="root")
        client.call("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"), pb.AuthRoleAddResponse)
        client.call("Auth/UserGrantRole", grant, pb.AuthUserGrantRoleResponse)
        client.call("Auth/AuthEnable", pb.AuthEnableRequest(), pb.AuthEnableResponse)
        login = pb.AuthenticateRequest(name="root", password="pw")
        token = client.call("Auth/Authenticate", login, pb.AuthenticateResponse).token
        put = client.channel.unary_unary(
            "/etcdserverpb.KV/Put", pb.PutRequest.SerializeToString, pb.PutResponse.FromString
        )
        request = pb.PutRequest(key=b"k")

        with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"):
            put(request, timeout=CALL_TIMEOUT)
        assert put(request, timeout=CALL_TIMEOUT, metadata=[("token", token)]).header.revision > 1
        lock = client.channel.unary_unary("/v3lockpb.Lock/Lock")
        held = lock(b"\x0a\x01n", timeout=CALL_TIMEOUT, metadata=[("token", token)])
        assert b"n/" in held
        with pytest.raises(grpc.RpcError) as late:
            lock(b"\x0a\x01n", timeout=0.5, metadata=[("token", token)])
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_unix_socket_of_an_etcd(etcds: Etcds) -> None:
    etcds.etcd("--listen-client-urls=http://127.0.0.1:0,unix://etcd.sock:0", name="unix")
    with Client(etcds.kine(f"unix://{etcds.directory}/unix/etcd.sock:0").address) as client:
        client.put(b"k", b"v")
        assert client.range(EVERY_KEY, EVERY_KEY).count == 1
