"""Maintenance and Cluster: the calls of operators and health checks."""

from __future__ import annotations

import hashlib
import os
import time

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, prefix_end, refused

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


# ---- status


def test_version_lets_the_api_server_ask_for_progress(client: Client) -> None:
    version = tuple(int(part) for part in client.status().version.split("."))

    assert len(version) == 3
    assert version >= (3, 5, 0)


def test_status_tells_the_current_revision(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    assert client.status().header.revision == revision


def test_status_tells_the_size(client: Client) -> None:
    status = client.status()

    assert 0 < status.dbSizeInUse <= status.dbSize


def test_size_grows_with_data(client: Client, prefix: bytes, capabilities) -> None:
    if not capabilities.live_size:
        pytest.skip("the size is the database's own statistics', which lag")
    before = client.status().dbSize
    for number in range(40):
        client.put(prefix + b"%d" % number, os.urandom(500_000))  # the database may compress data

    deadline = time.monotonic() + 60  # etcd updates it when its batch is committed, every 100 ms
    while client.status().dbSize <= before + 5_000_000:
        assert time.monotonic() < deadline
        client.put(prefix + b"0", b"v")


def test_the_only_member_leads(client: Client) -> None:
    status = client.status()

    assert status.leader == status.header.member_id
    assert not status.isLearner
    assert len(status.errors) == 0


def test_ids_are_the_same_in_every_answer(client: Client, prefix: bytes) -> None:
    headers = [
        client.put(prefix + b"k", b"v").header,
        client.range(prefix).header,
        client.status().header,
        client.members().header,
    ]

    assert len({(header.cluster_id, header.member_id, header.raft_term) for header in headers}) == 1


# ---- alarms


def test_no_alarm_is_raised(client: Client) -> None:
    assert len(client.alarms().alarms) == 0


# ---- defragment


def test_defragment_keeps_everything(client: Client, prefix: bytes, five: list[bytes]) -> None:
    before = client.range(prefix, prefix_end(prefix))

    client.defragment()

    assert client.range(prefix, prefix_end(prefix)) == before


def test_compact_and_defragment_give_space_back(own_server, prefix: bytes) -> None:
    with Client(own_server().address) as client:
        for _ in range(60):
            revision = client.put(prefix + b"k", os.urandom(500_000)).header.revision
        full = client.status().dbSize
        client.compact(revision, physical=True)

        client.defragment()

        assert client.status().dbSize < full / 2


# ---- hashes


def test_hash_of_unchanged_data_is_stable(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    assert client.hash().hash == client.hash().hash


def test_hash_kv_at_a_revision_does_not_change_with_later_writes(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"one").header.revision
    first = client.hash_kv(revision)
    client.put(prefix + b"k", b"two")

    second = client.hash_kv(revision)

    assert (second.hash, second.compact_revision) == (first.hash, first.compact_revision)


def test_hash_kv_changes_with_data(client: Client, prefix: bytes) -> None:
    first = client.hash_kv()
    client.put(prefix + b"k", b"v")

    assert client.hash_kv().hash != first.hash


def test_hash_kv_without_revision_is_of_the_present(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    assert client.hash_kv().hash == client.hash_kv(revision).hash


def test_hash_kv_tells_the_compact_revision(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    revision = client.put(prefix + b"k", b"v").header.revision
    client.compact(revision)

    assert client.hash_kv().compact_revision == revision


def test_hash_kv_of_a_future_revision_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE):
        client.hash_kv(client.revision() + 1)


def test_hash_kv_of_a_compacted_revision_is_refused(client: Client, prefix: bytes) -> None:
    old = client.put(prefix + b"k", b"v").header.revision
    client.compact(client.put(prefix + b"k", b"v").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.hash_kv(old)


# ---- snapshot


def test_snapshot_ends_with_its_checksum_as_etcdctl_wants(client: Client, five: list[bytes]) -> None:
    snapshot = b"".join(part.blob for part in client.snapshot())

    assert len(snapshot) % 512 == 32
    assert hashlib.sha256(snapshot[:-32]).digest() == snapshot[-32:]


def test_snapshot_counts_its_remaining_bytes_down(client: Client, five: list[bytes]) -> None:
    remaining = [part.remaining_bytes for part in client.snapshot()]

    assert remaining == sorted(remaining, reverse=True)
    assert remaining[-1] == 0


# ---- cluster


def test_member_list_has_the_one_member_that_answers(client: Client) -> None:
    answer = client.members()

    (member,) = answer.members
    assert answer.header.member_id == member.ID
    assert member.name
    assert not member.isLearner
    assert len(member.clientURLs) > 0


# ---- not available on a single member without users


@pytest.mark.parametrize(
    ("method", "request_", "answer"),
    [
        ("Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=1), pb.MoveLeaderResponse),
        ("Maintenance/Downgrade", pb.DowngradeRequest(), pb.DowngradeResponse),
        ("Cluster/MemberAdd", pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"]), pb.MemberAddResponse),
        ("Cluster/MemberRemove", pb.MemberRemoveRequest(ID=1), pb.MemberRemoveResponse),
        ("Cluster/MemberUpdate", pb.MemberUpdateRequest(ID=1), pb.MemberUpdateResponse),
        ("Cluster/MemberPromote", pb.MemberPromoteRequest(ID=1), pb.MemberPromoteResponse),
        ("Auth/UserAdd", pb.AuthUserAddRequest(name="root"), pb.AuthUserAddResponse),
        ("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"), pb.AuthRoleAddResponse),
    ],
)
def test_call_without_meaning_here_is_unimplemented(
    client: Client, method: str, request_, answer, needs
) -> None:
    needs("single_member_without_auth")

    with pytest.raises(grpc.RpcError) as refusal:
        client.call(method, request_, answer)

    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert refusal.value.details()
