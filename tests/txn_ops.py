"""Shorthand constructors for the parts of a Txn, so that a test reads as the transaction it sends."""

from __future__ import annotations

from typing import Any

from kine.proto import rpc_pb2 as pb

RESULTS = {"=": pb.Compare.EQUAL, "!=": pb.Compare.NOT_EQUAL, ">": pb.Compare.GREATER, "<": pb.Compare.LESS}


def version(key: bytes, result: str, value: int, range_end: bytes = b"") -> pb.Compare:
    return pb.Compare(
        key=key, range_end=range_end, result=RESULTS[result], target=pb.Compare.VERSION, version=value
    )


def created(key: bytes, result: str, value: int, range_end: bytes = b"") -> pb.Compare:
    return pb.Compare(
        key=key, range_end=range_end, result=RESULTS[result], target=pb.Compare.CREATE, create_revision=value
    )


def modified(key: bytes, result: str, value: int, range_end: bytes = b"") -> pb.Compare:
    return pb.Compare(
        key=key, range_end=range_end, result=RESULTS[result], target=pb.Compare.MOD, mod_revision=value
    )


def value(key: bytes, result: str, value: bytes, range_end: bytes = b"") -> pb.Compare:
    return pb.Compare(
        key=key, range_end=range_end, result=RESULTS[result], target=pb.Compare.VALUE, value=value
    )


def leased(key: bytes, result: str, value: int, range_end: bytes = b"") -> pb.Compare:
    return pb.Compare(
        key=key, range_end=range_end, result=RESULTS[result], target=pb.Compare.LEASE, lease=value
    )


def put(key: bytes, value: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, **fields))


def get(key: bytes, range_end: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=range_end, **fields))


def delete(key: bytes, range_end: bytes = b"", **fields: Any) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end, **fields))


def nested(
    compare: list[pb.Compare], success: list[pb.RequestOp], failure: list[pb.RequestOp] | None = None
) -> pb.RequestOp:
    return pb.RequestOp(request_txn=pb.TxnRequest(compare=compare, success=success, failure=failure or []))
