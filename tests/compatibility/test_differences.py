"""Differences from etcd, shown on both: rows of docs/compatibility.md that the shared suite cannot cover."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.etcd.bbolt import BboltReader
from kine.proto import rpc_pb2 as pb
from tests.client import EVERY_KEY, Client, refused
from tests.servers import etcd
from tests.servers.kine import start_kine
from tests.txn_ops import delete, nested, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NAMED = b"\x0a\x01n"  # a request whose first field is a name

pytestmark = pytest.mark.xdist_group("compatibility")  # its servers are started once


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ours")


@pytest.fixture(scope="module")
def ours(directory: Path) -> Iterator[Client]:
    server = start_kine(f"sqlite://{directory / 'state.db'}", "http2", directory)
    with Client(server.address) as client:
        yield client
    server.stop()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if reason := etcd.missing():
        pytest.skip(reason)
    server = etcd.start(tmp_path_factory.mktemp("theirs"))
    with Client(server.address) as client:
        yield client
    server.kill()


def test_fragments_of_the_past_are_answers_by_themselves(ours: Client, theirs: Client) -> None:
    told = []
    for client in (ours, theirs):
        start = client.revision() + 1
        for number in range(30):
            client.put(b"/fragments/%02d" % number, b"x" * 200_000)
        with client.watch() as watch:
            watch.create(b"/fragments/", b"/fragments0", start_revision=start, fragment=True)
            answers = []
            while sum(len(answer.events) for answer in answers) < 30:
                answers.append(watch.receive())
        assert len(answers) > 2
        told.append([answer.fragment for answer in answers])
        client.delete(b"/fragments/", b"/fragments0")

    assert not any(told[0])
    assert told[1] == [True] * (len(told[1]) - 1) + [False]


def test_put_in_one_nested_txn_and_delete_in_the_next(ours: Client, theirs: Client) -> None:
    operations = [nested([], [put(b"/both", b"v")]), nested([], [delete(b"/both")])]

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        ours.txn([], operations)
    assert theirs.txn([], operations).succeeded
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        theirs.txn([], operations[::-1])


def test_compaction_lock_is_kept_under_another_name(ours: Client, theirs: Client, directory: Path) -> None:
    for client in (ours, theirs):
        client.put(b"compact_rev_key", b"5")
        assert [kv.key for kv in client.range(b"compact_rev_key", b"compact_rev_kez").kvs] == [
            b"compact_rev_key"
        ]
    with sqlite3.connect(directory / "state.db") as database:
        rows = database.execute("SELECT name, value FROM kine WHERE name LIKE 'compact_rev_key_%'").fetchall()
    database.close()
    assert rows == [("compact_rev_key_apiserver", b"1|5")]


def test_health_key_is_there_from_the_start(ours: Client, theirs: Client) -> None:
    assert ours.get(b"/registry/health").value == b'{"health":"true"}'  # type: ignore[union-attr]
    assert theirs.get(b"/registry/health") is None


def test_compact_keeps_the_newest_revisions(ours: Client, theirs: Client, tmp_path: Path) -> None:
    server = start_kine(
        f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path, flags=("--compact-min-retain=5",)
    )
    with Client(server.address) as client:
        told = {}
        for name, one in (("kine", client), ("etcd", theirs)):
            last = [one.put(b"/kept", b"%d" % number).header.revision for number in range(20)][-1]
            one.compact(last)
            with pytest.raises(grpc.RpcError) as error:
                one.range(b"/kept", revision=last - 10)
            told[name] = error.value.code()
            if name == "kine":
                assert client.get(b"/kept", revision=last - 5).value == b"14"  # type: ignore[union-attr]
            else:
                with pytest.raises(grpc.RpcError):
                    one.range(b"/kept", revision=last - 5)
    server.stop()
    assert told == dict.fromkeys(("kine", "etcd"), grpc.StatusCode.OUT_OF_RANGE)


def test_compact_does_nothing_where_kine_compacts_by_itself(tmp_path: Path) -> None:
    server = start_kine(
        f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path, flags=("--compact-interval=1h",)
    )
    with Client(server.address) as client:
        last = [client.put(b"/kept", b"%d" % number).header.revision for number in range(3)][-1]

        client.compact(last)

        assert client.get(b"/kept", revision=last - 2).value == b"0"  # type: ignore[union-attr]
    server.stop()


def test_alarm_cannot_be_raised(ours: Client, theirs: Client) -> None:
    corrupt = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.CORRUPT)

    with refused(
        grpc.StatusCode.UNIMPLEMENTED,
        "etcdserver: activating an alarm is not supported by kine: alarms follow the database's own state",
    ):
        ours.call("Maintenance/Alarm", corrupt, pb.AlarmResponse)


def test_raft_index_is_the_revision(ours: Client, theirs: Client) -> None:
    for client in (ours, theirs):
        client.put(b"/raft")
        client.delete(b"/raft")
    mine, other = ours.status(), theirs.status()

    assert mine.raftIndex == mine.raftAppliedIndex == mine.header.revision
    assert other.raftIndex != other.header.revision


def test_hash_is_of_key_values_and_not_etcds(ours: Client, theirs: Client, tmp_path: Path) -> None:
    """Equal contents at equal revisions have equal hashes on every backend; etcd's differs."""
    copies = []
    for number, endpoint in enumerate((f"sqlite://{tmp_path / 'state.db'}", "memory://")):
        server = start_kine(endpoint, "http2", tmp_path / str(number))
        with Client(server.address) as client:
            client.put(b"/hashed", b"v")
            copies.append((client.hash_kv().hash, client.hash().hash))
        server.stop()

    assert len(set(copies)) == 1
    assert theirs.hash_kv().hash not in copies[0]


def test_the_hash_at_the_compacted_revision_is_of_that_compaction(ours: Client) -> None:
    """etcd keeps the hash that a compaction has computed, and returns the compact revision before it."""
    ours.put(b"/hashed", b"v")
    compacted = ours.put(b"/hashed", b"w").header.revision
    ours.compact(compacted)

    answer = ours.hash_kv(compacted)

    assert (answer.hash_revision, answer.compact_revision) == (compacted, compacted)


def test_there_is_no_quota(ours: Client) -> None:
    assert ours.status().dbSizeQuota == 0


def test_lease_of_go_kine_expires_but_is_not_listed(ours: Client, directory: Path) -> None:
    with sqlite3.connect(directory / "state.db") as database:
        database.execute(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
            " VALUES ('/go', 1, 0, 0, 0, 2, x'01')"
        )
    database.close()
    revision = ours.get(b"/go").mod_revision  # type: ignore[union-attr]

    with ours.watch() as watch:
        watch.create(b"/go", start_revision=revision + 1)
        assert ours.get(b"/go", serializable=True).lease == 2  # type: ignore[union-attr]
        assert 2 not in ours.leases()
        [event] = watch.events(1)
    assert event.type == event.DELETE


def test_snapshot_has_no_history(ours: Client) -> None:
    revisions = [ours.put(b"/past", b"%d" % number).header.revision for number in range(3)]
    parts = ours.snapshot()
    snapshot = b"".join(part.blob for part in parts)

    found = [
        int.from_bytes(key[:8], "big") for key, _ in BboltReader(memoryview(snapshot)[:-32]).bucket(b"key")
    ]

    assert revisions[-1] in found
    assert not set(revisions[:-1]) & set(found)
    assert {part.version for part in parts} == {"3.6.0"}, "of the storage, as etcd 3.6 tells it"


def test_what_the_page_calls_unimplemented_is(ours: Client) -> None:
    from tests.compatibility.test_page import unimplemented

    assert len(unimplemented()) > 5
    for method in unimplemented():
        with pytest.raises(grpc.RpcError) as refusal:
            ours.channel.unary_unary(f"/etcdserverpb.{method}")(NAMED, timeout=30)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED, method


def test_emulated_version_changes_what_is_told_only(tmp_path: Path) -> None:
    server = start_kine("memory://", "http2", tmp_path, flags=("--emulated-etcd-version=3.5.13",))
    with Client(server.address) as client, client.watch() as watch:
        watch.create(EVERY_KEY, EVERY_KEY)
        watch.ask_progress()

        status = client.status()
        assert (status.version, status.storageVersion) == ("3.5.13", "")
        assert watch.receive().watch_id == -1
    server.stop()


def test_compact_answers_when_the_rows_are_gone(ours: Client, directory: Path) -> None:
    last = [ours.put(b"/physical", b"%d" % number).header.revision for number in range(5)][-1]

    ours.compact(last)

    with sqlite3.connect(directory / "state.db") as database:
        rows = database.execute("SELECT id FROM kine WHERE name = '/physical'").fetchall()
    database.close()
    assert rows == [(last,)]


# ---- in front of an etcd


@pytest.fixture(scope="module")
def before(theirs: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = start_kine(f"http://{theirs.address}", "http2", tmp_path_factory.mktemp("before"))
    with Client(server.address) as client:
        yield client
    server.stop()


def test_members_before_an_etcd_are_its_own(before: Client, theirs: Client) -> None:
    assert before.members().members == theirs.members().members


def test_large_requests_end_before_an_etcd(before: Client) -> None:
    revision = before.revision()

    with pytest.raises(grpc.RpcError) as refusal:
        before.put(b"/large", bytes(2_300_000))

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert before.revision() == revision


def test_no_instance_tells_less_of_a_lease_than_is_left(
    ours: Client, directory: Path, tmp_path: Path
) -> None:
    granted = [ours.grant(100).ID for _ in range(3)]
    server = start_kine(f"sqlite://{directory / 'state.db'}", "http2", tmp_path)
    try:
        with Client(server.address) as other:
            for lease in granted:
                left = ours.time_to_live(lease).TTL
                assert left <= other.time_to_live(lease).TTL <= 100
    finally:
        server.stop()
    for lease in granted:
        ours.revoke(lease)
