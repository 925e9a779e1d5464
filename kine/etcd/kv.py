"""etcdserverpb.KV: decode, ask the store, encode."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import aclosing, nullcontext

from kine.etcd import errors, wire
from kine.etcd.requests import (
    MAX_TXN_OPS,
    decode_delete,
    decode_put,
    decode_range,
    decode_range_stream,
    decode_swap,
    decode_txn,
    operations,
)
from kine.etcd.wire import Headers
from kine.proto import rpc_pb2 as rpc
from kine.store.ops import DeleteResult, Op, PutResult, Range, RangeResult, Swap, Txn, TxnResult
from kine.store.reads import Unread
from kine.store.store import Store, has_ranges
from kine.transport.base import Answer, Call, Stream

_LARGE = 256 * 1024  # bytes of an answer that asks for room
_LONG = 512  # bytes of a transaction that takes half a millisecond, or more, to be understood and decided


class Kv:
    def __init__(self, store: Store, headers: Headers, max_request_bytes: int, max_txn_answer: int) -> None:
        self._store = store
        self._headers = headers
        self._max_request_bytes = max_request_bytes
        self._max_txn_answer = max_txn_answer

    def range(self, request: bytes, call: Call) -> Answer | Awaitable[Answer]:
        op = decode_range(rpc.RangeRequest.FromString(request), call.account)
        if not op.serializable:
            if op.revision > 0 and not self._store.knows_compaction():
                return self._range_of_the_past(op, call)
            if (lacking := self._store.lacking()) is not None:
                return self._store.read(lacking, op, self, call)
        result = self._store.range(op)
        if type(result) is RangeResult:
            return wire.range_answer(self._headers.at(result.revision), result)
        return self.ranged_later(call, op, result)  # type: ignore[arg-type]  # type() does not narrow the union

    async def _range_of_the_past(self, op: Range, call: Call) -> Answer:
        """Another instance may have compacted meanwhile, and that shows in no row."""
        await self._store.refresh(past=True)
        result = self._store.range(op)
        answer = (
            self.ranged(call, result)
            if isinstance(result, RangeResult)
            else self.ranged_later(call, op, result)
        )
        return await answer if isinstance(answer, Awaitable) else answer

    # ---- see `kine.store.reading.RangeCodec`; `failed` is below

    async def ranged_later(self, call: Call, op: Range, waiting: Awaitable[RangeResult]) -> Answer:
        if op.end is None or call.hold is None:
            result = await waiting
            return wire.range_answer(self._headers.at(result.revision), result)
        # What is being read and put together counts as queued, until it is.
        try:
            async with call.hold(self._store.expected(op)):
                result = await waiting
                return wire.range_answer(self._headers.at(result.revision), result)
        finally:
            if isinstance(waiting, Unread):
                waiting.close()  # where nobody has come to await it

    def ranged(self, call: Call, result: RangeResult) -> Answer | Awaitable[Answer]:
        # Those that waited go on all at once: the frames are the cache's, but an answer may be a copy.
        if call.room is not None and (size := result.size or sum(map(len, result.frames))) > _LARGE:
            return self._ranged_large(call.room(size), result)
        return wire.range_answer(self._headers.at(result.revision), result)

    async def _ranged_large(self, room: Awaitable[None], result: RangeResult) -> Answer:
        await room
        return wire.range_answer(self._headers.at(result.revision), result)

    async def range_stream(self, stream: Stream, call: Call) -> None:
        op = decode_range_stream(rpc.RangeRequest.FromString(await stream.receive() or b""), call.account)
        if not op.serializable:
            await self._store.refresh(past=op.revision > 0)
        room = self._max_request_bytes
        async with aclosing(self._store.stream(op, room)) as parts:
            while True:
                # What is being read counts as queued: a client may have thousands of streams.
                async with call.hold(room) if call.hold is not None else nullcontext():
                    part = await anext(parts)
                    head = self._headers.at(part.end.revision) if part.end is not None else b""
                    stream.send(wire.range_part(head, part))
                if part.end is not None:
                    return
                if stream.full:
                    await stream.drain()

    async def put(self, request: bytes, call: Call) -> bytes:
        op = decode_put(rpc.PutRequest.FromString(request))
        result = await self._one(op, request, call)
        assert isinstance(result, PutResult)
        return wire.put_response(self._headers.at(result.revision), result)

    async def delete_range(self, request: bytes, call: Call) -> bytes:
        op = decode_delete(rpc.DeleteRangeRequest.FromString(request))
        result = await self._one(op, request, call)
        assert isinstance(result, DeleteResult)
        return wire.delete_response(self._headers.at(result.revision), result)

    async def _one(self, op: Op, request: bytes, call: Call) -> object:
        """A change by itself is a transaction of one operation."""
        self._check_size(request)
        done = await self._store.txn(Txn([], [op], [], alone=True, client=call.account))
        return done.results[0]

    def txn(self, request: bytes, call: Call) -> Awaitable[Answer]:
        message = rpc.TxnRequest.FromString(request)
        op = decode_swap(message)
        if op is None:
            if len(request) > _LONG and operations(message) > MAX_TXN_OPS:
                decode_txn(message)  # raises: what is many times as large as it was sent does not wait
            return self._txn(message, request, call)
        self._check_size(request)
        op.client = call.account
        return self._leased(op) if op.lease else self._store.swap(op, self)

    async def _leased(self, op: Swap) -> bytes:
        await self._store.find_lease(op.lease)
        return await self._store.swap(op, self)

    # ---- see `kine.store.swap.Codec`

    def swapped(self, op: Swap, revision: int) -> bytes:
        return wire.swap_response(self._headers.at(revision), revision, deleted=op.value is None)

    def refused(self, result: TxnResult) -> bytes:
        return wire.txn_response(self._headers.at(result.revision), result)

    def failed(self, error: Exception) -> Exception:
        return errors.rpc_error(error) if isinstance(error, errors.KNOWN) else error

    async def _txn(self, message: rpc.TxnRequest, request: bytes, call: Call) -> Answer:
        if len(request) > _LONG:
            await self._store.turns.next(call.account)
        txn = decode_txn(message, call.account)
        self._check_size(request)
        if call.hold is None or not has_ranges(txn):
            result = await self._store.txn(txn, self._max_txn_answer)
            return wire.txn_answer(self._headers.at(result.revision), result)
        async with call.hold(self._max_txn_answer // 2):
            result = await self._store.txn(txn, self._max_txn_answer)
            return wire.txn_answer(self._headers.at(result.revision), result)

    async def compact(self, request: bytes, call: Call) -> bytes:
        await self._store.compact(rpc.CompactionRequest.FromString(request).revision)
        return self._headers.at(self._store.index.revision)

    def _check_size(self, request: bytes) -> None:
        if len(request) > self._max_request_bytes:
            raise errors.request_too_large()
