"""Txn: branches, visibility between operations, atomicity, nesting."""

from __future__ import annotations

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests import txn_ops
from tests.client import Client, keys_of, prefix_end, refused

UNKNOWN_LEASE = 0x7E57_0000_0000_0002


def test_txn_without_compares_succeeds(client: Client, prefix: bytes) -> None:
    answer = client.txn(
        success=[txn_ops.put(prefix + b"k", b"then")], failure=[txn_ops.put(prefix + b"k", b"else")]
    )

    assert answer.succeeded
    assert client.get(prefix + b"k").value == b"then"


def test_failed_compare_takes_the_other_branch(client: Client, prefix: bytes) -> None:
    answer = client.txn(
        [txn_ops.version(prefix + b"k", "=", 5)],
        [txn_ops.put(prefix + b"k", b"then")],
        [txn_ops.put(prefix + b"k", b"else")],
    )

    assert not answer.succeeded
    assert client.get(prefix + b"k").value == b"else"


def test_one_failed_compare_of_several_is_enough(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"a", b"v")

    answer = client.txn([txn_ops.version(prefix + b"a", "=", 1), txn_ops.version(prefix + b"b", "=", 1)])

    assert not answer.succeeded


def test_empty_txn_answers_with_the_current_revision(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    answer = client.txn()

    assert (answer.succeeded, len(answer.responses), answer.header.revision) == (True, 0, revision)


def test_txn_of_reads_takes_no_revision(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    answer = client.txn(success=[txn_ops.get(prefix + b"k"), txn_ops.get(prefix + b"absent")])

    assert answer.header.revision == revision
    assert [response.response_range.count for response in answer.responses] == [1, 0]


def test_txn_that_deletes_nothing_takes_no_revision(client: Client, prefix: bytes) -> None:
    before = client.revision()

    assert client.txn(success=[txn_ops.delete(prefix + b"absent")]).header.revision == before


def test_header_carries_the_revision_of_the_last_write(client: Client, prefix: bytes) -> None:
    answer = client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.put(prefix + b"b", b"v")])

    assert client.get(prefix + b"b").mod_revision == answer.header.revision == client.revision()


def test_writes_of_a_txn_share_one_revision(client: Client, prefix: bytes, needs) -> None:
    needs("one_revision_per_txn")
    before = client.revision()

    answer = client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.put(prefix + b"b", b"v")])

    assert answer.header.revision == before + 1
    assert {kv.mod_revision for kv in client.range(prefix, prefix_end(prefix)).kvs} == {before + 1}


def test_writes_of_a_txn_take_a_revision_each(client: Client, prefix: bytes, capabilities) -> None:
    if capabilities.one_revision_per_txn or not capabilities.dense_revisions:
        pytest.skip("a row a write is kine's way")
    before = client.revision()

    answer = client.txn(success=[txn_ops.put(prefix + b"b", b"v"), txn_ops.put(prefix + b"a", b"v")])

    assert answer.header.revision == before + 2
    assert client.get(prefix + b"b").mod_revision == before + 1
    assert client.get(prefix + b"a").mod_revision == before + 2


def test_responses_come_in_the_order_of_operations(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"gone", b"v")

    answer = client.txn(
        success=[
            txn_ops.put(prefix + b"k", b"v"),
            txn_ops.get(prefix + b"k"),
            txn_ops.delete(prefix + b"gone"),
            txn_ops.get(prefix + b"gone"),
        ]
    )

    kinds = [response.WhichOneof("response") for response in answer.responses]
    assert kinds == ["response_put", "response_range", "response_delete_range", "response_range"]


def test_response_kinds_are_present_even_when_empty(client: Client, prefix: bytes) -> None:
    answer = client.txn(success=[txn_ops.get(prefix + b"absent"), txn_ops.delete(prefix + b"absent")])

    kinds = [response.WhichOneof("response") for response in answer.responses]
    assert kinds == ["response_range", "response_delete_range"]


# ---- operations see the effects of earlier ones in the txn


def test_get_after_put_sees_it(client: Client, prefix: bytes) -> None:
    answer = client.txn(success=[txn_ops.put(prefix + b"k", b"v"), txn_ops.get(prefix + b"k")])

    (kv,) = answer.responses[1].response_range.kvs
    assert (kv.value, kv.version) == (b"v", 1)
    assert kv.create_revision == kv.mod_revision == answer.header.revision


def test_get_before_put_does_not_see_it(client: Client, prefix: bytes) -> None:
    answer = client.txn(success=[txn_ops.get(prefix + b"k"), txn_ops.put(prefix + b"k", b"v")])

    assert answer.responses[0].response_range.count == 0


def test_list_between_writes_sees_the_first(client: Client, prefix: bytes) -> None:
    everything = txn_ops.get(prefix, prefix_end(prefix))

    answer = client.txn(
        success=[
            txn_ops.put(prefix + b"a", b"v"),
            everything,
            txn_ops.put(prefix + b"b", b"v"),
            everything,
            txn_ops.delete(prefix + b"c"),
        ]
    )

    assert keys_of(answer.responses[1].response_range) == [prefix + b"a"]
    assert keys_of(answer.responses[3].response_range) == [prefix + b"a", prefix + b"b"]


def test_get_after_delete_does_not_see_the_key(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    answer = client.txn(success=[txn_ops.delete(prefix + b"k"), txn_ops.get(prefix + b"k")])

    assert answer.responses[1].response_range.count == 0


def test_second_delete_of_a_txn_deletes_nothing(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    answer = client.txn(success=[txn_ops.delete(prefix + b"k"), txn_ops.delete(prefix, prefix_end(prefix))])

    assert [response.response_delete_range.deleted for response in answer.responses] == [1, 0]


def test_compares_see_the_state_before_the_txn(client: Client, prefix: bytes) -> None:
    answer = client.txn(
        [txn_ops.version(prefix + b"k", "=", 0)],
        [txn_ops.put(prefix + b"k", b"v"), txn_ops.nested([txn_ops.version(prefix + b"k", "=", 0)], [])],
    )

    assert answer.responses[1].response_txn.succeeded


def test_read_at_an_old_revision_inside_a_txn_sees_the_past(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"old").header.revision
    client.put(prefix + b"k", b"new")

    answer = client.txn(
        success=[txn_ops.put(prefix + b"k", b"newest"), txn_ops.get(prefix + b"k", revision=revision)]
    )

    assert answer.responses[1].response_range.kvs[0].value == b"old"


def test_put_in_a_txn_returns_its_prev_kv(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    before = client.get(prefix + b"k")

    answer = client.txn(success=[txn_ops.put(prefix + b"k", b"two", prev_kv=True)])

    assert answer.responses[0].response_put.prev_kv == before


def test_put_in_a_txn_with_ignore_value(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"kept")

    client.txn(success=[txn_ops.put(prefix + b"k", ignore_value=True)])

    kv = client.get(prefix + b"k")
    assert (kv.value, kv.version) == (b"kept", 2)


def test_list_options_apply_inside_a_txn(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.txn(
        success=[
            txn_ops.get(prefix, prefix_end(prefix), limit=2, keys_only=True),
            txn_ops.get(prefix, prefix_end(prefix), count_only=True),
            txn_ops.get(prefix, prefix_end(prefix), sort_order="DESCEND", limit=1),
        ]
    )

    page, counted, last = (response.response_range for response in answer.responses)
    assert (keys_of(page), page.more, page.count) == (five[:2], True, 5)
    assert (len(counted.kvs), counted.count) == (0, 5)
    assert keys_of(last) == five[-1:]


# ---- nested


def test_nested_txn_runs_in_place(client: Client, prefix: bytes) -> None:
    answer = client.txn(
        success=[
            txn_ops.put(prefix + b"a", b"outer"),
            txn_ops.nested([], [txn_ops.get(prefix + b"a"), txn_ops.put(prefix + b"b", b"inner")]),
            txn_ops.get(prefix + b"b"),
        ]
    )

    inner = answer.responses[1].response_txn
    assert inner.succeeded
    assert inner.responses[0].response_range.kvs[0].value == b"outer"
    assert answer.responses[2].response_range.kvs[0].value == b"inner"


def test_nested_txn_takes_its_own_branch(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")

    answer = client.txn(
        [txn_ops.version(prefix + b"k", "=", 1)],
        [
            txn_ops.nested(
                [txn_ops.version(prefix + b"k", "=", 2)],
                [txn_ops.put(prefix + b"then", b"v")],
                [txn_ops.put(prefix + b"else", b"v")],
            )
        ],
    )

    assert answer.succeeded
    assert not answer.responses[0].response_txn.succeeded
    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"else", prefix + b"k"]


def test_two_nested_txns_keep_their_branches_apart(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    absent, present = txn_ops.version(prefix + b"k", "=", 0), txn_ops.version(prefix + b"k", "=", 1)

    answer = client.txn(
        success=[
            txn_ops.nested([absent], [], [txn_ops.nested([present], [txn_ops.put(prefix + b"a", b"v")])]),
            txn_ops.nested([present], [txn_ops.nested([absent], [], [txn_ops.put(prefix + b"b", b"v")])]),
        ]
    )

    first, second = (response.response_txn for response in answer.responses)
    assert (first.succeeded, first.responses[0].response_txn.succeeded) == (False, True)
    assert (second.succeeded, second.responses[0].response_txn.succeeded) == (True, False)
    assert client.range(prefix, prefix_end(prefix)).count == 3


# ---- all or nothing


def test_unknown_lease_in_the_last_put_leaves_nothing_behind(client: Client, prefix: bytes) -> None:
    before = client.revision()

    with refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
        client.txn(
            success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.put(prefix + b"b", b"v", lease=UNKNOWN_LEASE)]
        )

    assert client.range(prefix, prefix_end(prefix)).count == 0
    assert client.revision() == before


def test_ignore_value_of_an_absent_key_leaves_nothing_behind(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key not found"):
        client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.put(prefix + b"b", ignore_value=True)])

    assert client.range(prefix, prefix_end(prefix)).count == 0


def test_unknown_lease_of_a_put_is_told_before_a_future_read_ahead_of_it(
    client: Client, prefix: bytes
) -> None:
    ahead = txn_ops.get(prefix + b"a", revision=client.revision() + 1000)

    with refused(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"):
        client.txn([], [txn_ops.nested([], [ahead]), txn_ops.put(prefix + b"b", b"v", lease=UNKNOWN_LEASE)])


def test_future_read_leaves_nothing_behind(client: Client, prefix: bytes) -> None:
    future = client.revision() + 10

    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
        client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.get(prefix + b"a", revision=future)])

    assert client.range(prefix, prefix_end(prefix)).count == 0


def test_compacted_read_leaves_nothing_behind(client: Client, prefix: bytes) -> None:
    old = client.put(prefix + b"k", b"v").header.revision
    client.compact(client.put(prefix + b"k", b"v").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.get(prefix + b"k", revision=old)])

    assert client.get(prefix + b"a") is None


def test_errors_of_the_branch_not_taken_do_not_matter(client: Client, prefix: bytes) -> None:
    answer = client.txn(
        [txn_ops.version(prefix + b"k", "=", 9)],
        [txn_ops.put(prefix + b"k", b"v", lease=UNKNOWN_LEASE)],
        [txn_ops.put(prefix + b"k", b"else")],
    )

    assert not answer.succeeded
    assert client.get(prefix + b"k").value == b"else"


def test_txn_is_seen_whole_by_a_reader_at_its_revision(client: Client, prefix: bytes) -> None:
    revision = client.txn(
        success=[txn_ops.put(prefix + b"%d" % number, b"v") for number in range(20)]
    ).header.revision

    assert client.range(prefix, prefix_end(prefix), revision=revision).count == 20


# ---- limits


def test_128_operations_are_allowed(client: Client, prefix: bytes) -> None:
    answer = client.txn(success=[txn_ops.put(prefix + b"%03d" % number, b"v") for number in range(128)])

    assert len(answer.responses) == 128
    assert client.range(prefix, prefix_end(prefix)).count == 128


@pytest.mark.parametrize("part", ["compare", "success", "failure"])
def test_129_operations_are_refused(client: Client, prefix: bytes, part: str) -> None:
    key = prefix + b"k"
    many = {
        "compare": {"compare": [txn_ops.version(key, "=", 0)] * 129},
        "success": {"success": [txn_ops.get(key)] * 129},
        "failure": {"failure": [txn_ops.get(key)] * 129},
    }

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"):
        client.txn(**many[part])


def test_nested_operations_count_against_the_limit(client: Client, prefix: bytes) -> None:
    inner = [txn_ops.get(prefix + b"k")] * 100

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"):
        client.txn(success=[txn_ops.nested([], inner)] * 30)


def test_same_key_put_twice_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(success=[txn_ops.put(prefix + b"k", b"1"), txn_ops.put(prefix + b"k", b"2")])


def test_same_key_in_the_branch_not_taken_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(failure=[txn_ops.put(prefix + b"k", b"1"), txn_ops.put(prefix + b"k", b"2")])


@pytest.mark.parametrize("order", ["put first", "delete first"])
def test_put_and_delete_of_one_key_are_refused(client: Client, prefix: bytes, order: str) -> None:
    both = [txn_ops.put(prefix + b"k", b"1"), txn_ops.delete(prefix + b"k")]

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(success=both if order == "put first" else both[::-1])


def test_put_inside_a_deleted_range_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(success=[txn_ops.delete(prefix, prefix_end(prefix)), txn_ops.put(prefix + b"k", b"1")])


def test_put_beside_a_deleted_range_is_allowed(client: Client, prefix: bytes, five: list[bytes]) -> None:
    client.txn(success=[txn_ops.delete(five[0], five[3]), txn_ops.put(five[3], b"new")])

    assert keys_of(client.range(prefix, prefix_end(prefix))) == five[3:]


def test_same_key_in_both_branches_is_allowed(client: Client, prefix: bytes) -> None:
    client.txn(success=[txn_ops.put(prefix + b"k", b"1")], failure=[txn_ops.put(prefix + b"k", b"2")])

    assert client.get(prefix + b"k").value == b"1"


def test_same_key_in_both_branches_of_a_nested_txn_is_allowed(client: Client, prefix: bytes) -> None:
    client.txn(
        success=[txn_ops.nested([], [txn_ops.put(prefix + b"k", b"1")], [txn_ops.put(prefix + b"k", b"2")])]
    )

    assert client.get(prefix + b"k").value == b"1"


def test_same_key_inside_and_outside_a_nested_txn_is_refused(client: Client, prefix: bytes) -> None:
    inner = txn_ops.nested([], [txn_ops.put(prefix + b"k", b"1")])

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(success=[inner, txn_ops.put(prefix + b"k", b"2")])


def test_same_key_in_two_nested_txns_is_refused(client: Client, prefix: bytes) -> None:
    inner = txn_ops.nested([], [txn_ops.put(prefix + b"k", b"1")])

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn(success=[inner, inner])


def test_overlapping_deletes_are_allowed(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.txn(success=[txn_ops.delete(five[0], five[3]), txn_ops.delete(five[1], five[4])])

    assert [response.response_delete_range.deleted for response in answer.responses] == [3, 1]


@pytest.mark.parametrize("kind", ["compare", "get", "put", "delete"])
def test_empty_key_is_refused(client: Client, kind: str) -> None:
    parts = {
        "compare": {"compare": [txn_ops.version(b"", "=", 0)]},
        "get": {"success": [txn_ops.get(b"")]},
        "put": {"failure": [txn_ops.put(b"")]},
        "delete": {"success": [txn_ops.delete(b"")]},
    }

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        client.txn(**parts[kind])


def test_ignore_value_with_a_value_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: value is provided"):
        client.txn(success=[txn_ops.put(prefix + b"k", b"v", ignore_value=True)])


def test_ignore_lease_with_a_lease_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: lease is provided"):
        client.txn(success=[txn_ops.put(prefix + b"k", b"v", ignore_lease=True, lease=1)])


def test_operation_without_a_request_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key not found"):
        client.txn(success=[pb.RequestOp()])


def test_txn_over_the_size_limit_is_refused(client: Client, prefix: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
        client.txn(success=[txn_ops.put(prefix + b"%d" % number, b"x" * 400_000) for number in range(4)])
