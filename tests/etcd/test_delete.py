"""DeleteRange: which keys it deletes, and its response."""

from __future__ import annotations

import grpc
import pytest

from tests.client import EVERY_KEY, Client, keys_of, prefix_end, refused


def test_delete_of_one_key_counts_it(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    answer = client.delete(prefix + b"k")

    assert (answer.deleted, len(answer.prev_kvs)) == (1, 0)
    assert client.get(prefix + b"k") is None


def test_delete_takes_a_new_revision(client: Client, prefix: bytes) -> None:
    before = client.put(prefix + b"k", b"v").header.revision

    answer = client.delete(prefix + b"k")

    assert answer.header.revision > before
    assert client.revision() == answer.header.revision


def test_delete_of_an_absent_key_takes_no_revision(client: Client, prefix: bytes) -> None:
    before = client.revision()

    answer = client.delete(prefix + b"absent", prev_kv=True)

    assert (answer.deleted, len(answer.prev_kvs)) == (0, 0)
    assert answer.header.revision == client.revision() == before


def test_delete_twice_counts_once(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")

    assert client.delete(prefix + b"k").deleted == 0


def test_delete_leaves_longer_keys(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    client.put(prefix + b"k2", b"v")

    client.delete(prefix + b"k")

    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"k2"]


def test_prev_kvs_are_the_deleted_kvs_in_order(client: Client, prefix: bytes, five: list[bytes]) -> None:
    before = client.range(prefix, prefix_end(prefix)).kvs

    answer = client.delete(prefix, prefix_end(prefix), prev_kv=True)

    assert list(answer.prev_kvs) == list(before)
    assert answer.deleted == 5


def test_range_end_is_exclusive(client: Client, prefix: bytes, five: list[bytes]) -> None:
    assert client.delete(five[1], five[3]).deleted == 2
    assert keys_of(client.range(prefix, prefix_end(prefix))) == [five[0], five[3], five[4]]


def test_range_without_keys_takes_no_revision(client: Client, prefix: bytes) -> None:
    before = client.revision()

    answer = client.delete(prefix, prefix_end(prefix))

    assert (answer.deleted, answer.header.revision) == (0, before)


def test_delete_from_a_key_on_has_no_upper_bound(client: Client) -> None:
    client.put(b"\x7e\x7edelete/a", b"v")
    client.put(b"\x7e\x7edelete/b", b"v")

    assert client.delete(b"\x7e\x7edelete/b", EVERY_KEY).deleted == 1
    assert client.delete(b"\x7e\x7edelete/a", EVERY_KEY).deleted == 1


def test_deleted_range_is_gone_at_once_in_the_header_revision(
    client: Client, prefix: bytes, five: list[bytes]
) -> None:
    revision = client.delete(prefix, prefix_end(prefix)).header.revision

    assert client.range(prefix, prefix_end(prefix), revision=revision).count == 0


def test_deleted_range_is_whole_just_before_it(client: Client, prefix: bytes, five: list[bytes]) -> None:
    before = client.revision()
    client.delete(prefix, prefix_end(prefix))

    assert client.range(prefix, prefix_end(prefix), revision=before).count == 5


def test_range_of_a_thousand_keys_goes_as_one(client: Client, prefix: bytes) -> None:
    for number in range(1000):
        client.put(prefix + b"%04d" % number, b"v")

    assert client.delete(prefix, prefix_end(prefix)).deleted == 1000
    assert client.range(prefix, prefix_end(prefix)).count == 0


def test_delete_range_takes_one_revision(client: Client, prefix: bytes, five: list[bytes], needs) -> None:
    needs("one_revision_per_txn")
    before = client.revision()

    assert client.delete(prefix, prefix_end(prefix)).header.revision == before + 1


def test_delete_range_takes_a_revision_a_key(
    client: Client, prefix: bytes, five: list[bytes], capabilities
) -> None:
    if capabilities.one_revision_per_txn or not capabilities.dense_revisions:
        pytest.skip("a row a write is kine's way")
    before = client.revision()

    assert client.delete(prefix, prefix_end(prefix)).header.revision == before + 5


def test_empty_key_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.delete(b"")


def test_empty_key_with_a_range_end_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.delete(b"", b"z")
