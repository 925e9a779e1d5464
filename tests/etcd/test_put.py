"""Put: its response, what it stores, and what it refuses."""

from __future__ import annotations

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, refused

KEY_NOT_FOUND = "etcdserver: key not found"
LEASE_NOT_FOUND = "etcdserver: requested lease not found"
UNKNOWN_LEASE = 0x7E57_0000_0000_0001


def test_put_answers_with_the_new_revision(client: Client, prefix: bytes) -> None:
    before = client.revision()

    answer = client.put(prefix + b"k", b"v")

    assert answer.header.revision > before
    assert client.get(prefix + b"k").mod_revision == answer.header.revision


def test_every_put_moves_the_revision_by_one(client: Client, prefix: bytes, needs) -> None:
    needs("dense_revisions")
    first = client.put(prefix + b"a", b"v").header.revision

    following = [client.put(prefix + key, b"v").header.revision for key in (b"b", b"a", b"a")]

    assert following == [first + 1, first + 2, first + 3]


def test_put_of_the_same_value_is_a_change(client: Client, prefix: bytes) -> None:
    first = client.put(prefix + b"k", b"same").header.revision
    second = client.put(prefix + b"k", b"same").header.revision

    kv = client.get(prefix + b"k")

    assert (kv.create_revision, kv.mod_revision, kv.version) == (first, second, 2)


def test_version_counts_every_put(client: Client, prefix: bytes) -> None:
    for _ in range(20):
        client.put(prefix + b"k", b"v")

    assert client.get(prefix + b"k").version == 20


def test_version_survives_compaction(client: Client, prefix: bytes) -> None:
    for _ in range(5):
        revision = client.put(prefix + b"k", b"v").header.revision
    client.compact(revision, physical=True)
    client.put(prefix + b"k", b"v")

    assert client.get(prefix + b"k").version == 6


def test_put_without_prev_kv_returns_none(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")

    assert not client.put(prefix + b"k", b"two").HasField("prev_kv")


def test_prev_kv_of_a_new_key_is_absent(client: Client, prefix: bytes) -> None:
    assert not client.put(prefix + b"k", b"v", prev_kv=True).HasField("prev_kv")


def test_prev_kv_is_the_replaced_kv(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    before = client.get(prefix + b"k")

    answer = client.put(prefix + b"k", b"two", prev_kv=True)

    assert answer.prev_kv == before


def test_prev_kv_of_a_deleted_key_is_absent(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    client.delete(prefix + b"k")

    assert not client.put(prefix + b"k", b"two", prev_kv=True).HasField("prev_kv")


def test_ignore_value_keeps_the_value(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"kept")
    revision = client.put(prefix + b"k", ignore_value=True).header.revision

    kv = client.get(prefix + b"k")

    assert (kv.value, kv.mod_revision, kv.version) == (b"kept", revision, 2)


def test_ignore_value_takes_the_new_lease(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"kept")

    client.put(prefix + b"k", ignore_value=True, lease=lease)

    kv = client.get(prefix + b"k")
    assert (kv.value, kv.lease) == (b"kept", lease)
    client.revoke(lease)


def test_ignore_lease_keeps_the_lease(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"one", lease=lease)

    client.put(prefix + b"k", b"two", ignore_lease=True)

    kv = client.get(prefix + b"k")
    assert (kv.value, kv.lease) == (b"two", lease)
    client.revoke(lease)


def test_ignore_value_and_lease_only_counts_up(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"kept")

    client.put(prefix + b"k", ignore_value=True, ignore_lease=True)

    kv = client.get(prefix + b"k")
    assert (kv.value, kv.version) == (b"kept", 2)


def test_prev_kv_with_ignore_value(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"kept")
    before = client.get(prefix + b"k")

    assert client.put(prefix + b"k", ignore_value=True, prev_kv=True).prev_kv == before


# ---- refused


def test_empty_key_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.put(b"", b"v")


def test_ignore_value_with_a_value_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: value is provided"):
        client.put(prefix + b"k", b"v", ignore_value=True)


def test_ignore_lease_with_a_lease_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: lease is provided"):
        client.put(prefix + b"k", b"v", ignore_lease=True, lease=1)


def test_ignore_value_of_an_absent_key_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, KEY_NOT_FOUND):
        client.put(prefix + b"k", ignore_value=True)


def test_ignore_lease_of_an_absent_key_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, KEY_NOT_FOUND):
        client.put(prefix + b"k", b"v", ignore_lease=True)


def test_unknown_lease_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, LEASE_NOT_FOUND):
        client.put(prefix + b"k", b"v", lease=UNKNOWN_LEASE)


def test_unknown_lease_counts_before_an_absent_key(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, LEASE_NOT_FOUND):
        client.put(prefix + b"k", ignore_value=True, lease=UNKNOWN_LEASE)


def test_in_a_txn_an_absent_key_counts_before_an_unknown_lease(client: Client, prefix: bytes) -> None:
    put = pb.PutRequest(key=prefix + b"k", ignore_value=True, lease=UNKNOWN_LEASE)

    with refused(grpc.StatusCode.INVALID_ARGUMENT, KEY_NOT_FOUND):
        client.txn(success=[pb.RequestOp(request_put=put)])


def test_refused_put_changes_nothing(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"kept")
    before = client.range(prefix + b"k")

    with refused(grpc.StatusCode.NOT_FOUND, LEASE_NOT_FOUND):
        client.put(prefix + b"k", b"lost", lease=UNKNOWN_LEASE)

    assert client.range(prefix + b"k") == before


def test_request_over_the_size_limit_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
        client.put(prefix + b"k", b"x" * 1_600_000)


def test_request_of_the_size_limit_is_kept(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"x" * (1_572_864 - 1024))

    assert len(client.get(prefix + b"k").value) == 1_572_864 - 1024


def test_message_over_the_transports_limit_is_refused(client: Client, prefix: bytes) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        client.put(prefix + b"k", b"x" * 3_000_000)

    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # the text is the transport's own
