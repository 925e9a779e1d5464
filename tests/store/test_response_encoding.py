"""Responses encoded by concatenation, parsed by the generated classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kine.etcd import response_encoding
from kine.etcd.request_decoding import decode_swap
from kine.proto import kv_pb2, rpc_pb2
from kine.store.index import Entry
from kine.store.operations import DeleteResult, PutResult, RangeResult, Swap, TxnResult
from kine.store.value_cache import bare_frame, frame, unframe, value_of, varint

revisions = st.integers(0, 2**63 - 1)
values = st.binary(max_size=300)
entries = st.builds(
    Entry, st.binary(min_size=1, max_size=200), revisions, revisions, revisions, revisions, st.none()
)
headers = response_encoding.HeaderCache(2**64 - 1, 7)


def parsed(entry: Entry, value: bytes) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=entry.key,
        create_revision=entry.create,
        mod_revision=entry.mod,
        version=entry.version,
        value=value,
        lease=entry.lease,
    )


@given(st.integers(-(2**63), 2**64 - 1))
def test_varint_is_protobufs(number):
    header = rpc_pb2.ResponseHeader.FromString(b"\x08" + varint(number))
    assert header.cluster_id == number % 2**64


@given(entries, values)
def test_frame_holds_the_key_value(entry, value):
    encoded = frame(entry, value)
    assert kv_pb2.KeyValue.FromString(unframe(encoded)) == parsed(entry, value)
    assert value_of(encoded) == value
    assert kv_pb2.Event.FromString(encoded).kv == parsed(entry, value)


@given(revisions)
def test_header(revision):
    header = rpc_pb2.PutResponse.FromString(headers.at(revision)).header
    assert header == rpc_pb2.ResponseHeader(
        cluster_id=2**64 - 1, member_id=7, revision=revision, raft_term=headers.term
    )


@given(revisions, st.lists(st.tuples(entries, values), max_size=4), st.booleans(), revisions)
def test_range_response(revision, pairs, more, count):
    frames = [frame(entry, value) for entry, value in pairs]
    answer = response_encoding.range_response(
        headers.at(revision), RangeResult(revision, frames, more, count)
    )
    message = rpc_pb2.RangeResponse.FromString(answer)
    assert list(message.kvs) == [parsed(entry, value) for entry, value in pairs]
    assert (message.more, message.count, message.header.revision) == (more, count, revision)


@given(revisions, entries, values, st.integers(0, 1000))
def test_txn_response_with_every_kind_of_answer(revision, entry, value, deleted):
    encoded = frame(entry, value)
    results = [
        RangeResult(revision, [encoded, bare_frame(entry)], True, 2),
        PutResult(revision, encoded),
        PutResult(revision, None),
        DeleteResult(revision, deleted, [encoded]),
        TxnResult(0, False, [PutResult(revision, None)]),
    ]
    answer = response_encoding.txn_response(headers.at(revision), TxnResult(revision, True, results))
    message = rpc_pb2.TxnResponse.FromString(answer)
    inner = rpc_pb2.ResponseHeader(revision=revision)
    kv = parsed(entry, value)
    assert message.succeeded
    assert list(message.responses) == [
        rpc_pb2.ResponseOp(
            response_range=rpc_pb2.RangeResponse(
                header=inner, kvs=[kv, parsed(entry, b"")], more=True, count=2
            )
        ),
        rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(header=inner, prev_kv=kv)),
        rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(header=inner)),
        rpc_pb2.ResponseOp(
            response_delete_range=rpc_pb2.DeleteRangeResponse(header=inner, deleted=deleted, prev_kvs=[kv])
        ),
        rpc_pb2.ResponseOp(
            response_txn=rpc_pb2.TxnResponse(
                header=rpc_pb2.ResponseHeader(),
                responses=[rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(header=inner))],
            )
        ),
    ]


@given(st.integers(1, 2**63 - 1), st.booleans())
def test_swap_response_is_that_of_the_transaction(revision, deleted):
    result = DeleteResult(revision, 1, []) if deleted else PutResult(revision, None)
    whole = response_encoding.txn_response(headers.at(revision), TxnResult(revision, True, [result]))
    assert response_encoding.swap_response(headers.at(revision), revision, deleted=deleted) == whole


def swap_of(op: rpc_pb2.RequestOp, mod: int, *failure: rpc_pb2.RequestOp, **compare: object) -> Swap | None:
    fields = {"key": b"/a", "target": rpc_pb2.Compare.MOD, "mod_revision": mod} | compare
    return decode_swap(rpc_pb2.TxnRequest(compare=[rpc_pb2.Compare(**fields)], success=[op], failure=failure))


def putting(**fields: object) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(**{"key": b"/a", "value": b"1"} | fields))


def reading(**fields: object) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(**{"key": b"/a"} | fields))


def deleting(**fields: object) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(**{"key": b"/a"} | fields))


def test_transactions_of_kubernetes_are_swaps():
    assert swap_of(putting(), 0) == Swap(b"/a", 0, b"1", 0, tell=False)
    assert swap_of(putting(lease=7), 0, reading()) == Swap(b"/a", 0, b"1", 7, tell=True)
    assert swap_of(putting(), 5, reading()) == Swap(b"/a", 5, b"1", 0, tell=True)
    assert swap_of(deleting(), 5, reading()) == Swap(b"/a", 5, None, 0, tell=True)


@pytest.mark.parametrize(
    "other",
    [
        swap_of(putting(key=b"/b"), 0),
        swap_of(putting(prev_kv=True), 5),
        swap_of(putting(ignore_lease=True), 5),
        swap_of(putting(value=b"", ignore_value=True), 5),
        swap_of(putting(), 5, reading(key=b"/b")),
        swap_of(putting(), 5, reading(keys_only=True)),
        swap_of(putting(), 5, reading(range_end=b"/b")),
        swap_of(putting(), 5, reading(), reading()),
        swap_of(putting(), 5, putting()),
        swap_of(reading(), 5),
        swap_of(deleting(), 0),
        swap_of(deleting(prev_kv=True), 5),
        swap_of(deleting(range_end=b"/b"), 5),
        swap_of(putting(), 5, result=rpc_pb2.Compare.NOT_EQUAL),
        swap_of(putting(), 5, range_end=b"/b"),
        swap_of(putting(), 5, target=rpc_pb2.Compare.VERSION),
        swap_of(putting(key=b"compact_rev_key"), 5, key=b"compact_rev_key"),
        decode_swap(rpc_pb2.TxnRequest(success=[putting()])),
    ],
)
def test_any_other_transaction_is_not(other):
    assert other is None
