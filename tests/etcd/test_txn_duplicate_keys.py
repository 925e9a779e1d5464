"""Transactions that would change a key twice are refused before the store is called."""

from __future__ import annotations

import pytest

from kine.etcd.request_decoding import decode_txn
from kine.proto import rpc_pb2 as pb
from kine.transport.base import RpcError
from tests import etcd_model

A, B = b"/a", b"/b"


def put(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key))


def delete(key: bytes, range_end: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end))


def nested(then: list[pb.RequestOp], otherwise: list[pb.RequestOp] = []) -> pb.RequestOp:  # noqa: B006
    return pb.RequestOp(request_txn=pb.TxnRequest(success=then, failure=otherwise))


CASES = {
    "two puts": [put(A), put(A)],
    "put and delete": [put(A), delete(A)],
    "delete and put": [delete(A), put(A)],
    "put in a deleted range": [delete(b"/", b"0"), put(A)],
    "put beside a deleted range": [delete(B, b"0"), put(A)],
    "two deletes": [delete(A), delete(A)],
    "put and nested put": [put(A), nested([put(A)])],
    "put and put of the nested else": [put(A), nested([], [put(A)])],
    "put and nested delete": [put(A), nested([delete(A)])],
    "put and delete of the nested else": [put(A), nested([], [delete(A)])],
    "put and deleted range of the nested else": [put(A), nested([], [delete(b"/", b"0")])],
    "delete and nested put": [delete(A), nested([put(A)])],
    "delete and put of the nested else": [delete(A), nested([], [put(A)])],
    "nested delete and nested put": [nested([delete(A)]), nested([put(A)])],
    "delete of a nested else and nested put": [nested([], [delete(A)]), nested([put(A)])],
    "delete of a nested else and put of another": [nested([], [delete(A)]), nested([], [put(A)])],
    "nested puts": [nested([put(A)]), nested([put(A)])],
    "put in both branches": [nested([put(A)], [put(A)])],
    "put in one branch, delete in the other": [nested([put(A)], [delete(A)])],
    "deep put and put": [put(A), nested([nested([], [put(A)])])],
    "deep delete and put": [put(A), nested([nested([], [delete(A)])])],
    "deep delete, later put": [nested([], [nested([], [delete(A)])]), nested([put(A)])],
    "nothing twice": [put(A), nested([put(B)], [delete(B)])],
}


@pytest.mark.parametrize("branch", ["success", "failure"])
@pytest.mark.parametrize("ops", CASES.values(), ids=CASES.keys())
def test_a_key_is_changed_once_as_in_etcd(ops: list[pb.RequestOp], branch: str) -> None:
    request = pb.TxnRequest(**{branch: ops})
    due = None
    try:
        etcd_model.check_overlaps(ops)
    except etcd_model.Refusal as refusal:
        due = (refusal.code, refusal.text)
    found = None
    try:
        decode_txn(request)
    except RpcError as refusal:
        found = (refusal.code.name, refusal.message)
    assert found == due


REFUSED = {
    "two puts", "put and delete", "delete and put", "put in a deleted range", "put and nested put",
    "put and put of the nested else", "put and nested delete", "put and delete of the nested else",
    "put and deleted range of the nested else", "delete and nested put", "delete and put of the nested else",
    "nested delete and nested put", "delete of a nested else and nested put",
    "delete of a nested else and put of another", "nested puts", "deep put and put", "deep delete and put",
    "deep delete, later put",
}  # fmt: skip


@pytest.mark.parametrize(("name", "ops"), CASES.items(), ids=CASES.keys())
def test_which_are_refused(name: str, ops: list[pb.RequestOp]) -> None:
    """Written out, so that the reference model is checked against it, too."""
    refused = False
    try:
        decode_txn(pb.TxnRequest(success=ops))
    except RpcError:
        refused = True
    assert refused == (name in REFUSED)
