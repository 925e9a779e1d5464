"""Range: sort order by each target, and the minimum and maximum revision filters."""

from __future__ import annotations

import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, keys_of, prefix_end

Order = pb.RangeRequest
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


@pytest.fixture
def shuffled(client: Client, prefix: bytes) -> dict[str, list[bytes]]:
    """Three keys, and their order by each sort target."""
    a, b, c = prefix + b"a", prefix + b"b", prefix + b"c"
    client.put(b, b"2")
    client.put(a, b"0")
    client.put(c, b"0")
    client.put(c, b"0")
    client.put(c, b"1")
    client.put(b, b"3")
    client.put(a, b"4")
    client.put(b, b"5")
    client.put(b, b"2")
    return {
        "KEY": [a, b, c],
        "VERSION": [a, c, b],
        "CREATE": [b, a, c],
        "MOD": [c, a, b],
        "VALUE": [c, b, a],
    }


# ---- order


@pytest.mark.parametrize("target", ["KEY", "VERSION", "CREATE", "MOD", "VALUE"])
def test_ascending_order_by(
    client: Client, prefix: bytes, shuffled: dict[str, list[bytes]], target: str
) -> None:
    answer = client.range(prefix, prefix_end(prefix), sort_target=target, sort_order=Order.ASCEND)

    assert keys_of(answer) == shuffled[target]


@pytest.mark.parametrize("target", ["KEY", "VERSION", "CREATE", "MOD", "VALUE"])
def test_descending_order_by(
    client: Client, prefix: bytes, shuffled: dict[str, list[bytes]], target: str
) -> None:
    answer = client.range(prefix, prefix_end(prefix), sort_target=target, sort_order=Order.DESCEND)

    assert keys_of(answer) == shuffled[target][::-1]


@pytest.mark.parametrize("target", ["VERSION", "CREATE", "MOD", "VALUE"])
def test_target_without_an_order_sorts_ascending(
    client: Client, prefix: bytes, shuffled: dict[str, list[bytes]], target: str
) -> None:
    answer = client.range(prefix, prefix_end(prefix), sort_target=target)

    assert keys_of(answer) == shuffled[target]


def test_limit_cuts_after_sorting(client: Client, prefix: bytes, shuffled: dict[str, list[bytes]]) -> None:
    answer = client.range(prefix, prefix_end(prefix), limit=1, sort_target="MOD", sort_order=Order.DESCEND)

    assert keys_of(answer) == shuffled["MOD"][-1:]
    assert (answer.more, answer.count) == (True, 3)


def test_last_key_is_found_by_descending_order_and_limit(
    client: Client, prefix: bytes, five: list[bytes]
) -> None:
    answer = client.range(prefix, prefix_end(prefix), limit=1, sort_order=Order.DESCEND)

    assert keys_of(answer) == five[-1:]


def test_keys_only_sorts_by_the_values_it_leaves_out(
    client: Client, prefix: bytes, shuffled: dict[str, list[bytes]]
) -> None:
    answer = client.range(
        prefix, prefix_end(prefix), keys_only=True, sort_target="VALUE", sort_order=Order.ASCEND
    )

    assert keys_of(answer) == shuffled["VALUE"]
    assert {kv.value for kv in answer.kvs} == {b""}


def test_sort_at_an_old_revision_uses_the_old_values(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"a", b"2")
    revision = client.put(prefix + b"b", b"1").header.revision
    client.put(prefix + b"a", b"0")

    answer = client.range(
        prefix, prefix_end(prefix), sort_target="VALUE", sort_order=Order.ASCEND, revision=revision
    )

    assert keys_of(answer) == [prefix + b"b", prefix + b"a"]


def test_equal_values_keep_the_order_of_keys(client: Client, prefix: bytes) -> None:
    keys = [prefix + b"%d" % number for number in range(6)]
    for key in reversed(keys):
        client.put(key, b"same")

    ascending = client.range(prefix, prefix_end(prefix), sort_target="VALUE", sort_order=Order.ASCEND)
    descending = client.range(prefix, prefix_end(prefix), sort_target="VALUE", sort_order=Order.DESCEND)

    assert keys_of(ascending) == keys_of(descending) == keys


# ---- revision filters


@pytest.fixture
def history(client: Client, prefix: bytes) -> list[int]:
    """Keys a, b, c created in turn, then a updated: the four revisions."""
    return [client.put(prefix + key, b"v").header.revision for key in (b"a", b"b", b"c", b"a")]


def test_min_mod_revision_is_inclusive(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), min_mod_revision=history[2])

    assert keys_of(answer) == [prefix + b"a", prefix + b"c"]


def test_max_mod_revision_is_inclusive(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), max_mod_revision=history[2])

    assert keys_of(answer) == [prefix + b"b", prefix + b"c"]


def test_min_create_revision_is_inclusive(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), min_create_revision=history[1])

    assert keys_of(answer) == [prefix + b"b", prefix + b"c"]


def test_max_create_revision_is_inclusive(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), max_create_revision=history[1])

    assert keys_of(answer) == [prefix + b"a", prefix + b"b"]


def test_filters_narrow_together(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(
        prefix, prefix_end(prefix), min_mod_revision=history[2], max_create_revision=history[1]
    )

    assert keys_of(answer) == [prefix + b"a"]


def test_filters_do_not_change_the_count(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), min_mod_revision=history[3])

    assert (len(answer.kvs), answer.count) == (1, 3)


def test_limit_cuts_after_filtering(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), max_mod_revision=history[2], limit=1)

    assert keys_of(answer) == [prefix + b"b"]
    assert answer.more


def test_limit_that_fits_the_filtered_says_no_more(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), max_mod_revision=history[2], limit=2)

    assert keys_of(answer) == [prefix + b"b", prefix + b"c"]
    assert not answer.more


def test_filters_apply_to_an_old_revision(client: Client, prefix: bytes, history: list[int]) -> None:
    answer = client.range(prefix, prefix_end(prefix), revision=history[2], max_mod_revision=history[0])

    assert keys_of(answer) == [prefix + b"a"]
