"""Txn compares: every target and result, on present and absent keys, on one key and on ranges."""

from __future__ import annotations

import pytest

from kine.proto import rpc_pb2 as pb
from tests import txn_ops
from tests.client import EVERY_KEY, Client, prefix_end

UNTIL = {"=": {0}, "!=": {-1, 1}, ">": {-1}, "<": {1}}  # operand minus actual value, where it holds

RESULTS = ["=", "!=", ">", "<"]
OFFSETS = [-1, 0, 1]


def holds(client: Client, *compares: pb.Compare) -> bool:
    return client.txn(list(compares)).succeeded


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("result", RESULTS)
def test_version(client: Client, prefix: bytes, result: str, offset: int) -> None:
    client.put(prefix + b"k", b"v")
    client.put(prefix + b"k", b"v")

    assert holds(client, txn_ops.version(prefix + b"k", result, 2 + offset)) == (offset in UNTIL[result])


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("result", RESULTS)
def test_create_revision(client: Client, prefix: bytes, result: str, offset: int) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision
    client.put(prefix + b"k", b"v")

    assert holds(client, txn_ops.created(prefix + b"k", result, revision + offset)) == (
        offset in UNTIL[result]
    )


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("result", RESULTS)
def test_mod_revision(client: Client, prefix: bytes, result: str, offset: int) -> None:
    client.put(prefix + b"k", b"v")
    revision = client.put(prefix + b"k", b"v").header.revision

    assert holds(client, txn_ops.modified(prefix + b"k", result, revision + offset)) == (
        offset in UNTIL[result]
    )


@pytest.mark.parametrize(("operand", "offset"), [(b"l", -1), (b"m", 0), (b"n", 1), (b"", -1), (b"m\0", 1)])
@pytest.mark.parametrize("result", RESULTS)
def test_value(client: Client, prefix: bytes, result: str, operand: bytes, offset: int) -> None:
    client.put(prefix + b"k", b"m")

    assert holds(client, txn_ops.value(prefix + b"k", result, operand)) == (offset in UNTIL[result])


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("result", RESULTS)
def test_lease(client: Client, prefix: bytes, result: str, offset: int) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"v", lease=lease)

    assert holds(client, txn_ops.leased(prefix + b"k", result, lease + offset)) == (offset in UNTIL[result])
    client.revoke(lease)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("target", [txn_ops.version, txn_ops.created, txn_ops.modified, txn_ops.leased])
def test_absent_key_compares_as_zero(client: Client, prefix: bytes, target, result: str, offset: int) -> None:
    assert holds(client, target(prefix + b"absent", result, offset)) == (offset in UNTIL[result])


@pytest.mark.parametrize("result", RESULTS)
def test_value_of_an_absent_key_never_holds(client: Client, prefix: bytes, result: str) -> None:
    assert not holds(client, txn_ops.value(prefix + b"absent", result, b""))


def test_deleted_key_compares_as_absent(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")

    assert holds(client, txn_ops.version(prefix + b"k", "=", 0), txn_ops.modified(prefix + b"k", "=", 0))


def test_compare_without_an_operand_compares_with_zero(client: Client, prefix: bytes) -> None:
    compare = pb.Compare(key=prefix + b"absent", target=pb.Compare.MOD, result=pb.Compare.EQUAL)

    assert holds(client, compare)


def test_operand_of_another_target_counts_as_zero(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    compare = pb.Compare(key=prefix + b"k", target=pb.Compare.VERSION, result=pb.Compare.EQUAL, lease=1)

    assert not holds(client, compare)


# ---- ranges: every key in it must hold


def test_range_holds_when_every_key_does(client: Client, prefix: bytes, five: list[bytes]) -> None:
    assert holds(client, txn_ops.version(prefix, "=", 1, prefix_end(prefix)))


def test_range_fails_with_one_key(client: Client, prefix: bytes, five: list[bytes]) -> None:
    client.put(five[3], b"changed")

    assert not holds(client, txn_ops.version(prefix, "=", 1, prefix_end(prefix)))


def test_range_end_of_a_compare_is_exclusive(client: Client, prefix: bytes, five: list[bytes]) -> None:
    client.put(five[3], b"changed")

    assert holds(client, txn_ops.version(prefix, "=", 1, five[3]))


def test_range_of_values(client: Client, prefix: bytes, five: list[bytes]) -> None:
    assert holds(client, txn_ops.value(prefix, ">", b"value 4", prefix_end(prefix)))
    assert not holds(client, txn_ops.value(prefix, ">", b"value 5", prefix_end(prefix)))


def test_range_without_keys_compares_as_zero(client: Client, prefix: bytes) -> None:
    assert holds(client, txn_ops.version(prefix, "=", 0, prefix_end(prefix)))
    assert not holds(client, txn_ops.version(prefix, ">", 0, prefix_end(prefix)))


def test_values_of_a_range_without_keys_never_hold(client: Client, prefix: bytes) -> None:
    assert not holds(client, txn_ops.value(prefix, "!=", b"x", prefix_end(prefix)))


def test_range_of_absent_keys_guards_a_create(client: Client, prefix: bytes) -> None:
    empty = txn_ops.created(prefix, "=", 0, prefix_end(prefix))

    first = client.txn([empty], [txn_ops.put(prefix + b"a", b"v")])
    second = client.txn([empty], [txn_ops.put(prefix + b"b", b"v")])

    assert (first.succeeded, second.succeeded) == (True, False)


def test_range_from_a_key_on(client: Client) -> None:
    client.put(b"\x7e\x7ecompare", b"v")

    assert holds(client, txn_ops.version(b"\x7e\x7ecompare", "=", 1, EVERY_KEY))
    client.delete(b"\x7e\x7ecompare")
