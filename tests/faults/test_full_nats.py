"""A NATS store at its size limit: deletes and compaction still work, and then writes do again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client, prefix_end
from tests.databases import nats
from tests.servers.kine import start_kine
from tests.servers.nats import database_server

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"/registry/full/"
SPACE = "etcdserver: mvcc: database space exceeded"
LIMIT = 2_000_000  # bytes
VALUE = 20_000


@pytest.fixture(params=["stream", pytest.param("account", marks=pytest.mark.engines)])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    if reason := nats.missing():
        pytest.skip(reason)
    if request.param == "stream":
        server = database_server(1)
        bucket = server.new_bucket()
        server.api(
            f"STREAM.CREATE.KV_{bucket}", name=f"KV_{bucket}", subjects=[f"$KV.{bucket}.>"],
            max_msgs_per_subject=10, discard="new", allow_rollup_hdrs=True, deny_delete=True,
            allow_direct=True, max_bytes=LIMIT,
        )  # fmt: skip
        yield server.endpoint(bucket)
        return
    account = f"accounts {{ A {{ jetstream: {{ max_file: {LIMIT} }}, users: [{{user: u, password: p}}] }} }}"
    limited = nats.Nats(1, account)
    yield limited.endpoint("kine").replace("nats://", "nats://u:p@")
    limited.stop()


def fill(client: Client) -> list[bytes]:
    """Writes each key twice, so that there is something to compact, until even a small value is refused."""
    keys: list[bytes] = []
    for size in (VALUE, VALUE // 20, 1):
        while True:
            key = PREFIX + b"%04d" % (len(keys) // 2)
            if not taken(client, key, size):
                break
            keys.append(key)
    return keys


def taken(client: Client, key: bytes, size: int) -> bool:
    try:
        client.put(key, os.urandom(size))
    except grpc.RpcError as error:
        if error.details() != SPACE:
            raise
        return False
    return True


def test_deletion_and_compaction_work_in_a_full_store(endpoint: str, tmp_path: Path) -> None:
    # The default: the revisions that a compaction retains must not keep a full store full.
    instance = start_kine(endpoint, "http2", tmp_path, flags=("--compact-min-retain=1000",))
    try:
        with Client(instance.address) as client:
            keys = fill(client)
            assert len(keys) > 20
            for key in sorted(set(keys))[:10]:
                assert client.delete(key).deleted == 1
            lease = client.leases()
            client.compact(client.revision())
            for _ in range(10):
                client.put(PREFIX + b"after", os.urandom(VALUE))
            assert client.range(PREFIX, prefix_end(PREFIX), count_only=True).count == len(set(keys)) - 9
            assert lease == set()
            assert not client.alarms().alarms
    finally:
        instance.kill()


def test_a_lease_expires_in_a_full_store(endpoint: str, tmp_path: Path) -> None:
    instance = start_kine(endpoint, "http2", tmp_path)
    try:
        with Client(instance.address) as client, client.watch() as watch:
            lease = client.grant(3).ID
            put = client.put(PREFIX + b"leased", lease=lease).header.revision
            fill(client)
            watch.create(PREFIX + b"leased", start_revision=put + 1)
            assert watch.events(1, 60)[0].kv.key == PREFIX + b"leased"
    finally:
        instance.kill()
