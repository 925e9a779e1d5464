"""Response encoding: protobuf messages built by concatenating cached frames.

For frames see `kine.store.value_cache`. Field numbers are those of rpc.proto; the tests compare these
messages with the generated classes.
"""

from __future__ import annotations

from kine.store.operations import DeleteResult, PutResult, RangeResult, Result, TxnResult
from kine.store.range_streams import Part
from kine.store.value_cache import varint
from kine.transport.base import Pieces

_SMALL = [bytes((number,)) for number in range(128)]
_LONG = 64 * 1024  # bytes from which on a response stays in pieces
_TERM = 2  # the term that a one-member etcd reports after its first election


class HeaderCache:
    """The encoded `header` field of responses, with tag and length, for the last revision."""

    __slots__ = ("_bytes", "_prefix", "_revision", "cluster_id", "member_id", "term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.term = _TERM
        self._prefix = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._revision = -1
        self._bytes = b""

    def at(self, revision: int) -> bytes:
        if revision != self._revision:
            body = self._prefix + (b"\x18" + varint(revision) if revision else b"") + b"\x20" + varint(_TERM)
            self._bytes = b"\x0a" + varint(len(body)) + body
            self._revision = revision
        return self._bytes


def field(tag: bytes, body: bytes) -> bytes:
    return tag + varint(len(body)) + body


def header(revision: int) -> bytes:
    """The header of the responses within a transaction: only a revision."""
    return field(b"\x0a", b"\x18" + varint(revision) if revision else b"")


def range_response(head: bytes, result: RangeResult) -> bytes:
    return b"".join(_range_parts(head, result))


def range_answer(head: bytes, result: RangeResult) -> bytes | Pieces:
    """A range response; a large one in pieces, which responses may share: joining 10 MB takes 2 ms."""
    return Pieces(_range_parts(head, result)) if result.size else range_response(head, result)


def _range_parts(head: bytes, result: RangeResult) -> list[bytes]:
    parts = [head, *result.frames]
    if result.more:
        parts.append(b"\x18\x01")
    if result.count:
        parts.append(b"\x20" + varint(result.count))
    return parts


def range_part(head: bytes, part: Part) -> bytes:
    """A RangeStreamResponse; only the last one has header, more and count."""
    parts = [*part.frames]
    if part.end is not None:
        parts.insert(0, head)
        if part.end.more:
            parts.append(b"\x18\x01")
        if part.end.total:
            parts.append(b"\x20" + varint(part.end.total))
    return b"\x0a" + varint(sum(map(len, parts))) + b"".join(parts)


def put_response(head: bytes, result: PutResult) -> bytes:
    return head if result.prev is None else head + result.prev


def delete_response(head: bytes, result: DeleteResult) -> bytes:
    parts = [head]
    if result.deleted:
        parts.append(b"\x10" + varint(result.deleted))
    parts += [b"\x1a" + prev[1:] for prev in result.prev]
    return b"".join(parts)


def txn_response(head: bytes, result: TxnResult) -> bytes:
    parts = [head]
    if result.succeeded:
        parts.append(b"\x10\x01")
    parts += [field(b"\x1a", _response_op(each)) for each in result.results]
    return b"".join(parts)


def txn_answer(head: bytes, result: TxnResult) -> bytes | Pieces:
    """A transaction's response; a large one in pieces: nothing is copied, however deep it is nested."""
    parts, size = _txn_parts(head, result)
    return b"".join(parts) if size < _LONG else Pieces(parts)


def _txn_parts(head: bytes, result: TxnResult) -> tuple[list[bytes], int]:
    parts = [head + b"\x10\x01" if result.succeeded else head]
    size = len(parts[0])
    for each in result.results:
        inner, length = _op_parts(each)
        tag = b"\x1a" + varint(length)
        parts.append(tag)
        parts += inner
        size += len(tag) + length
    return parts, size


def _op_parts(result: Result) -> tuple[list[bytes], int]:
    head = header(result.revision)
    if isinstance(result, RangeResult):
        parts, kind = _range_parts(head, result), b"\x0a"
        if not result.size and (length := sum(map(len, parts))) < _LONG:
            parts = [b"".join(parts)]
        else:
            length = sum(map(len, parts))
    elif isinstance(result, TxnResult):
        (parts, length), kind = _txn_parts(head, result), b"\x22"
    elif isinstance(result, PutResult):
        parts, kind = [put_response(head, result)], b"\x12"
        length = len(parts[0])
    else:
        parts, kind = [delete_response(head, result)], b"\x1a"
        length = len(parts[0])
    tag = kind + varint(length)
    return [tag, *parts], len(tag) + length


def swap_response(head: bytes, revision: int, *, deleted: bool) -> bytes:
    """The response to a transaction of one put or one delete that has succeeded."""
    number = varint(revision)
    size = len(number) + 1
    if deleted:
        size += 2
        # responses { response_delete_range { header { revision }, deleted: 1 } }
        return b"".join(
            (head, b"\x10\x01\x1a", _SMALL[size + 4], b"\x1a", _SMALL[size + 2], b"\x0a", _SMALL[size - 2],
             b"\x18", number, b"\x10\x01")
        )  # fmt: skip
    # responses { response_put { header { revision } } }
    return b"".join(
        (head, b"\x10\x01\x1a", _SMALL[size + 4], b"\x12", _SMALL[size + 2], b"\x0a", _SMALL[size],
         b"\x18", number)
    )  # fmt: skip


def _response_op(result: Result) -> bytes:
    head = header(result.revision)
    if isinstance(result, RangeResult):
        return field(b"\x0a", range_response(head, result))
    if isinstance(result, PutResult):
        return field(b"\x12", put_response(head, result))
    if isinstance(result, DeleteResult):
        return field(b"\x1a", delete_response(head, result))
    return field(b"\x22", txn_response(head, result))
