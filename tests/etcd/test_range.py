"""Range: which keys a read returns, and as of which revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from kine.proto import rpc_pb2 as pb
from tests.client import EVERY_KEY, Client, keys_of, prefix_end, refused

if TYPE_CHECKING:
    from tests.conftest import Needs

Order = pb.RangeRequest
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


# ---- ranges


def test_range_end_is_exclusive(client: Client, five: list[bytes]) -> None:
    assert keys_of(client.range(five[1], five[3])) == five[1:3]


def test_prefix_range_returns_all_in_order(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.range(prefix, prefix_end(prefix))

    assert keys_of(answer) == five
    assert (answer.count, answer.more) == (5, False)


def test_prefix_range_leaves_neighbours_out(client: Client, prefix: bytes) -> None:
    client.put(prefix[:-1] + b".", b"just below")
    client.put(prefix + b"k", b"inside")
    client.put(prefix[:-1] + b"0", b"just above")

    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"k"]


def test_range_of_no_width_is_empty(client: Client, five: list[bytes]) -> None:
    answer = client.range(five[2], five[2])

    assert (len(answer.kvs), answer.count) == (0, 0)


def test_range_that_ends_before_it_starts_is_empty(client: Client, five: list[bytes]) -> None:
    answer = client.range(five[3], five[1])

    assert (len(answer.kvs), answer.count) == (0, 0)


def test_range_from_a_key_on_has_no_upper_bound(client: Client) -> None:
    client.put(b"\x7e\x7efrom-key/a", b"v")
    client.put(b"\x7e\x7efrom-key/b", b"v")

    answer = client.range(b"\x7e\x7efrom-key/a", EVERY_KEY)

    assert keys_of(answer) == [b"\x7e\x7efrom-key/a", b"\x7e\x7efrom-key/b"]
    client.delete(b"\x7e\x7efrom-key/", EVERY_KEY)


def test_range_of_every_key_includes_ours(client: Client, five: list[bytes]) -> None:
    answer = client.range(EVERY_KEY, EVERY_KEY)

    assert set(five) <= set(keys_of(answer))
    assert answer.count == len(answer.kvs)
    assert keys_of(answer) == sorted(keys_of(answer))


def test_count_of_every_key_is_the_number_of_keys(client: Client, five: list[bytes]) -> None:
    listed = client.range(EVERY_KEY, EVERY_KEY, keys_only=True)

    counted = client.range(EVERY_KEY, EVERY_KEY, count_only=True)

    assert counted.count == len(listed.kvs) >= len(five)


# ---- revisions


def test_header_carries_the_current_revision(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    assert client.range(prefix + b"k").header.revision == revision


def test_read_at_an_old_revision_sees_the_past(client: Client, prefix: bytes) -> None:
    first = client.put(prefix + b"k", b"one").header.revision
    client.put(prefix + b"k", b"two")

    answer = client.range(prefix + b"k", revision=first)

    (kv,) = answer.kvs
    assert (kv.value, kv.mod_revision, kv.version) == (b"one", first, 1)


def test_header_of_an_old_read_carries_the_current_revision(client: Client, prefix: bytes) -> None:
    first = client.put(prefix + b"k", b"one").header.revision
    second = client.put(prefix + b"k", b"two").header.revision

    assert client.range(prefix + b"k", revision=first).header.revision == second


def test_read_between_two_changes_sees_the_earlier(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    between = client.put(prefix + b"other", b"v").header.revision
    client.put(prefix + b"k", b"two")

    assert [kv.value for kv in client.range(prefix + b"k", revision=between).kvs] == [b"one"]


def test_read_before_creation_is_empty(client: Client, prefix: bytes) -> None:
    before = client.revision()
    client.put(prefix + b"k", b"v")

    answer = client.range(prefix, prefix_end(prefix), revision=before)

    assert (len(answer.kvs), answer.count) == (0, 0)


def test_read_at_the_revision_of_a_deletion_is_empty(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    deleted = client.delete(prefix + b"k").header.revision
    client.put(prefix + b"k", b"again")

    assert client.range(prefix + b"k", revision=deleted).count == 0


def test_read_just_before_a_deletion_sees_the_key(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision
    client.delete(prefix + b"k")

    assert client.range(prefix + b"k", revision=revision).count == 1


def test_old_list_has_the_old_count_and_values(client: Client, prefix: bytes, five: list[bytes]) -> None:
    revision = client.revision()
    client.delete(five[0])
    client.put(five[1], b"new")

    answer = client.range(prefix, prefix_end(prefix), revision=revision, limit=2)

    assert [kv.value for kv in answer.kvs] == [b"value 9", b"value 8"]
    assert (answer.count, answer.more) == (5, True)


def test_read_at_the_current_revision_is_allowed(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    assert client.range(prefix + b"k", revision=revision).count == 1


def test_read_at_a_future_revision_is_refused(client: Client, prefix: bytes) -> None:
    future = client.revision() + 1

    with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE):
        client.range(prefix + b"k", revision=future)


def test_read_below_the_compact_revision_is_refused(client: Client, prefix: bytes) -> None:
    old = client.put(prefix + b"k", b"one").header.revision
    new = client.put(prefix + b"k", b"two").header.revision
    client.compact(new)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.range(prefix + b"k", revision=old)


def test_negative_revision_reads_the_present(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    assert client.range(prefix + b"k", revision=-1).count == 1


# ---- what is left out of an answer


def test_keys_only_leaves_values_out(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"value").header.revision

    (kv,) = client.range(prefix, prefix_end(prefix), keys_only=True).kvs

    assert (kv.key, kv.value) == (prefix + b"k", b"")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (revision, revision, 1)


def test_count_only_returns_no_kvs(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.range(prefix, prefix_end(prefix), count_only=True)

    assert (len(answer.kvs), answer.count, answer.more) == (0, 5, False)


def test_count_only_ignores_the_limit(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.range(prefix, prefix_end(prefix), count_only=True, limit=2)

    assert (answer.count, answer.more) == (5, False)


def test_count_only_of_one_key(client: Client, five: list[bytes]) -> None:
    assert client.range(five[0], count_only=True).count == 1


def test_count_only_at_an_old_revision(client: Client, prefix: bytes, five: list[bytes]) -> None:
    revision = client.revision()
    client.delete(prefix, prefix_end(prefix))

    assert client.range(prefix, prefix_end(prefix), count_only=True, revision=revision).count == 5
    assert client.range(prefix, prefix_end(prefix), count_only=True).count == 0


def test_keys_only_at_an_old_revision(client: Client, prefix: bytes, five: list[bytes]) -> None:
    revision = client.revision()
    client.delete(five[0])

    answer = client.range(prefix, prefix_end(prefix), keys_only=True, revision=revision)

    assert keys_of(answer) == five
    assert {kv.value for kv in answer.kvs} == {b""}


# ---- consistency


def test_serializable_read_sees_a_finished_write_of_the_same_client(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    [kv] = client.range(prefix + b"k", serializable=True).kvs
    assert kv.value == b"v"


def test_read_on_another_connection_sees_a_finished_write(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    with Client(client.address) as other:
        assert other.range(prefix + b"k").count == 1


# ---- refused


def test_empty_key_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.range(b"")


def test_empty_key_with_a_range_end_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.range(b"", b"z")


def test_unknown_sort_order_is_refused(client: Client, prefix: bytes, needs: Needs) -> None:
    needs("checks_sort_options")

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option"):
        client.range(prefix, prefix_end(prefix), sort_order=7)


def test_unknown_sort_target_is_refused(client: Client, prefix: bytes, needs: Needs) -> None:
    needs("checks_sort_options")

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option"):
        client.range(prefix, prefix_end(prefix), sort_target=7)
