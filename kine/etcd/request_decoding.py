"""Request decoding and validation: protobuf messages in, the store's operations out.

The checks and their order are etcd's (server/etcdserver/api/v3rpc/key.go).
"""

from __future__ import annotations

from collections.abc import Iterable

from kine.etcd import errors
from kine.proto import rpc_pb2 as rpc
from kine.store.index import in_range
from kine.store.operations import (
    Compare,
    CompareTarget,
    Delete,
    Op,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Swap,
    Txn,
)
from kine.store.reserved_key_translation import COMPACT_REV_KEY

MAX_TXN_OPS = 128
_MOD = int(CompareTarget.MOD)


def range_end(end: bytes) -> bytes | None:
    """The API's range_end in the store's form: None if empty, b"" for `\\0` (no upper bound), or a key."""
    if not end:
        return None
    return b"" if end == b"\0" else end


def decode_range(message: rpc.RangeRequest, client: object = None) -> Range:
    if not message.key:
        raise errors.empty_key()
    if not (0 <= message.sort_order <= 2 and 0 <= message.sort_target <= 4):
        raise errors.invalid_sort_option()
    return Range(
        message.key,
        range_end(message.range_end),
        message.limit,
        message.revision,
        message.sort_order,
        message.sort_target,
        message.serializable,
        message.keys_only,
        message.count_only,
        message.min_mod_revision,
        message.max_mod_revision,
        message.min_create_revision,
        message.max_create_revision,
        client,
    )


def decode_range_stream(message: rpc.RangeRequest, client: object = None) -> Range:
    """A RangeStream request, with etcd's checks (checkRangeStreamRequest); the sort target must be the key.

    etcd 3.7 accepts another target if no order is given, and then sorts each part separately.
    """
    op = decode_range(message, client)
    if op.target != SortTarget.KEY or op.order == SortOrder.DESCEND:
        raise errors.stream_order()
    if op.min_mod or op.max_mod or op.min_create or op.max_create:
        raise errors.stream_filters()
    return op


def decode_put(message: rpc.PutRequest) -> Put:
    if not message.key:
        raise errors.empty_key()
    if message.ignore_value and message.value:
        raise errors.value_provided()
    if message.ignore_lease and message.lease:
        raise errors.lease_provided()
    return Put(
        message.key, message.value, message.lease, message.prev_kv, message.ignore_value, message.ignore_lease
    )


def decode_delete(message: rpc.DeleteRangeRequest) -> Delete:
    if not message.key:
        raise errors.empty_key()
    return Delete(message.key, range_end(message.range_end), message.prev_kv)


def decode_swap(message: rpc.TxnRequest) -> Swap | None:
    """A transaction of the shape that Kubernetes uses to create, update and delete; None for any other."""
    compares, success, failure = message.compare, message.success, message.failure
    if len(compares) != 1 or len(success) != 1 or len(failure) > 1:
        return None
    compare = compares[0]
    key = compare.key
    if compare.target != _MOD or compare.result or compare.range_end or not key or key == COMPACT_REV_KEY:
        return None
    mod = compare.mod_revision
    if failure:
        op = failure[0]
        if not op.HasField("request_range"):
            return None
        instead = op.request_range
        # Compared by serialized size, which is faster than checking a dozen fields.
        if instead.key != key or instead.ByteSize() != _size_of(key):
            return None
    op = success[0]
    if op.HasField("request_put"):
        put = op.request_put
        if put.key != key or put.prev_kv or put.ignore_value or put.ignore_lease:
            return None
        return Swap(key, mod, put.value, put.lease, bool(failure))
    if op.HasField("request_delete_range") and mod:
        delete = op.request_delete_range
        if delete.key == key and not delete.range_end and not delete.prev_kv:
            return Swap(key, mod, None, 0, bool(failure))
    return None


def _size_of(key: bytes) -> int:
    """Serialized size of a RangeRequest with this key and no other field."""
    size = len(key)
    return size + (2 if size < 128 else 3 if size < 16384 else 4)


def decode_txn(message: rpc.TxnRequest, client: object = None) -> Txn:
    txn = _txn(message, _Left(MAX_TXN_OPS), client)
    _check_overlaps(txn.success)
    _check_overlaps(txn.failure)
    return txn


def operations(message: rpc.TxnRequest) -> int:
    """The number of operations as etcd counts them, nested ones included, or one above `MAX_TXN_OPS`."""
    count = max(len(message.compare), len(message.success), len(message.failure))
    if count > MAX_TXN_OPS:
        return count
    for op in (*message.success, *message.failure):
        if op.HasField("request_txn"):
            count += operations(op.request_txn)
            if count > MAX_TXN_OPS:
                break
    return count


class _Left:
    """The number of operations that a transaction, with all nested ones, may still have."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


def _txn(message: rpc.TxnRequest, left: _Left, client: object) -> Txn:
    left.count -= max(len(message.compare), len(message.success), len(message.failure))
    if left.count < 0:
        raise errors.too_many_ops()
    compares = [_compare(compare) for compare in message.compare]
    return Txn(
        compares,
        [_op(op, left, client) for op in message.success],
        [_op(op, left, client) for op in message.failure],
        client=client,
    )


def _op(message: rpc.RequestOp, left: _Left, client: object) -> Op:
    kind = message.WhichOneof("request")
    if kind == "request_put":
        return decode_put(message.request_put)
    if kind == "request_range":
        return decode_range(message.request_range, client)
    if kind == "request_delete_range":
        return decode_delete(message.request_delete_range)
    if kind == "request_txn":
        return _txn(message.request_txn, left, client)
    raise errors.key_not_found()


def _compare(message: rpc.Compare) -> Compare:
    if not message.key:
        raise errors.empty_key()
    target = int(message.target)
    operand: int | bytes
    if target == CompareTarget.MOD:
        operand = message.mod_revision
    elif target == CompareTarget.VERSION:
        operand = message.version
    elif target == CompareTarget.CREATE:
        operand = message.create_revision
    elif target == CompareTarget.VALUE:
        operand = message.value
    else:
        operand = message.lease
    return Compare(message.key, range_end(message.range_end), target, int(message.result), operand)


def _check_overlaps(ops: Iterable[Op]) -> tuple[set[bytes], list[Delete]]:
    """The keys and ranges that operations put and delete. Raises RpcError if a key is changed twice.

    The rule is etcd's (checkIntervals).
    """
    puts: set[bytes] = set()
    deletes = [op for op in ops if isinstance(op, Delete)]
    for op in ops:
        if isinstance(op, Txn):
            then_puts, then_deletes = _check_overlaps(op.success)
            else_puts, else_deletes = _check_overlaps(op.failure)
            # Only one of the two branches runs: both may change the same key.
            for key in then_puts | else_puts:
                _check_put(key, puts, deletes)
            puts |= then_puts | else_puts
            deletes += then_deletes + else_deletes
    for op in ops:
        if isinstance(op, Put):
            _check_put(op.key, puts, deletes)
            puts.add(op.key)
    return puts, deletes


def _check_put(key: bytes, puts: set[bytes], deletes: list[Delete]) -> None:
    if key in puts or any(in_range(key, delete.key, delete.end) for delete in deletes):
        raise errors.duplicate_key()
