"""Single keys: which fields are stored, and that keys and values of any bytes are."""

from __future__ import annotations

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, keys_of, prefix_end

Order = pb.RangeRequest
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def test_get_returns_the_whole_kv(client: Client, prefix: bytes) -> None:
    first = client.put(prefix + b"k", b"one").header.revision
    second = client.put(prefix + b"k", b"two").header.revision

    answer = client.range(prefix + b"k")

    (kv,) = answer.kvs
    assert (kv.key, kv.value) == (prefix + b"k", b"two")
    assert (kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (first, second, 2, 0)
    assert (answer.count, answer.more) == (1, False)


def test_get_of_an_absent_key_is_empty(client: Client, prefix: bytes) -> None:
    answer = client.range(prefix + b"absent")

    assert (len(answer.kvs), answer.count, answer.more) == (0, 0, False)


def test_get_does_not_match_a_longer_key(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"key-and-more", b"v")

    assert client.get(prefix + b"key") is None


def test_get_of_a_deleted_key_is_empty(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")

    assert client.get(prefix + b"k") is None


def test_recreated_key_counts_from_version_one(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")
    revision = client.put(prefix + b"k", b"again").header.revision

    kv = client.get(prefix + b"k")

    assert kv is not None
    assert (kv.create_revision, kv.mod_revision, kv.version) == (revision, revision, 1)


def test_empty_value_is_kept(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"")

    kv = client.get(prefix + b"k")

    assert kv is not None
    assert kv.value == b""


def test_value_of_any_bytes_is_kept(client: Client, prefix: bytes) -> None:
    value = bytes(range(256)) * 4

    client.put(prefix + b"k", value)

    kv = client.get(prefix + b"k")
    assert kv is not None
    assert kv.value == value


def test_value_of_a_megabyte_is_kept(client: Client, prefix: bytes) -> None:
    value = b"x" * (1024 * 1024)

    client.put(prefix + b"k", value)

    kv = client.get(prefix + b"k")
    assert kv is not None
    assert kv.value == value


@pytest.mark.parametrize(
    "key",
    [
        b"plain",
        b"with space",
        b"/slashes//twice",
        b"per%cent_under'quote\"\\",
        "ünïcödé".encode(),
        b"\x01\x7f",
    ],
)
def test_keys_are_kept_as_written(client: Client, prefix: bytes, key: bytes, capabilities) -> None:
    if not capabilities.holds_key(key):
        pytest.skip("not a key for this database")
    client.put(prefix + key, b"v")

    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + key]


def test_keys_order_by_bytes_not_by_letters(client: Client, prefix: bytes) -> None:
    in_order = [prefix + key for key in (b"A", b"Z", b"_", b"a", b"a-b", b"a/b", b"aB", b"ab", b"z", b"~")]
    for key in reversed(in_order):
        client.put(key, b"v")

    assert keys_of(client.range(prefix, prefix_end(prefix))) == in_order


def test_keys_that_differ_in_case_are_two(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"key", b"lower")
    client.put(prefix + b"KEY", b"upper")

    assert client.range(prefix, prefix_end(prefix)).count == 2


@pytest.mark.parametrize("key", [b"\0", b"a\0", b"a\0b", b"\xff", b"\xfe\xff", b"a\xc3", bytes(range(256))])
def test_keys_of_any_bytes_are_kept_or_refused_with_a_reason(
    client: Client, prefix: bytes, key: bytes, capabilities
) -> None:
    if not capabilities.holds_key(key):
        with pytest.raises(grpc.RpcError) as refusal:
            client.put(prefix + key, b"v")
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return

    client.put(prefix + key, b"v")

    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + key]
