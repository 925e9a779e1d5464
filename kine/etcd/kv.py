"""The etcdserverpb.KV service: decodes requests, calls the store, encodes responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext

from kine.etcd import errors, response_encoding
from kine.etcd.request_decoding import (
    MAX_TXN_OPS,
    decode_delete,
    decode_put,
    decode_range,
    decode_range_stream,
    decode_swap,
    decode_txn,
    operations,
)
from kine.etcd.response_encoding import HeaderCache
from kine.proto import rpc_pb2 as rpc
from kine.store.operations import (
    LARGEST_ANSWER,
    DeleteResult,
    Op,
    PutResult,
    Range,
    RangeResult,
    Result,
    Swap,
    Txn,
    TxnResult,
)
from kine.store.range_select import UnreadValues
from kine.store.store import Store, has_ranges
from kine.transport.base import Answer, Call, MessageStream

_LARGE = 256 * 1024  # bytes from which on a response waits for room
_LONG = 512  # bytes from which on decoding and deciding a transaction takes half a millisecond, or more


class KvService:
    def __init__(
        self, store: Store, headers: HeaderCache, max_request_bytes: int, max_txn_answer: int
    ) -> None:
        self._store = store
        self._headers = headers
        self._max_request_bytes = max_request_bytes
        self._max_txn_answer = max_txn_answer

    def range(self, request: bytes, call: Call) -> Answer | Awaitable[Answer]:
        op = decode_range(rpc.RangeRequest.FromString(request), call.account)
        if not op.serializable:
            if op.revision > 0 and not self._store.knows_compaction():
                return self._range_of_the_past(op, call)
            if (lacking := self._store.revision_to_reach()) is not None:
                return self._store.read(lacking, op, self, call)
        result = self._store.range(op)
        if type(result) is RangeResult:
            return response_encoding.range_answer(self._headers.at(result.revision), result)
        return self.ranged_later(call, op, result)  # type: ignore[arg-type]  # type() does not narrow the union

    async def _range_of_the_past(self, op: Range, call: Call) -> Answer:
        """Refreshes first: another instance may have compacted since, which no new row shows."""
        await self._store.refresh(past=True)
        result = self._store.range(op)
        answer = (
            self.ranged(call, result)
            if isinstance(result, RangeResult)
            else self.ranged_later(call, op, result)
        )
        return await answer if isinstance(answer, Awaitable) else answer

    # ---- see `kine.store.linearizable_range.RangeEncoder`; `failed` is below

    async def ranged_later(self, call: Call, op: Range, waiting: Awaitable[RangeResult]) -> Answer:
        if call.hold is None:
            result = await waiting
            return response_encoding.range_answer(self._headers.at(result.revision), result)
        # Counts as queued while the values are read and the response is built.
        try:
            async with call.hold(self._store.expected(op)):
                result = await waiting
                return response_encoding.range_answer(self._headers.at(result.revision), result)
        finally:
            if isinstance(waiting, UnreadValues):
                waiting.close()  # if it was never awaited

    def ranged(self, call: Call, result: RangeResult) -> Answer | Awaitable[Answer]:
        # All reads that waited resume at once: the frames are shared with the cache, but a response may copy.
        if call.room is not None and (size := result.size or sum(map(len, result.frames))) > _LARGE:
            return self._ranged_large(call.room(size), result)
        return response_encoding.range_answer(self._headers.at(result.revision), result)

    async def _ranged_large(self, room: Awaitable[None], result: RangeResult) -> Answer:
        await room
        return response_encoding.range_answer(self._headers.at(result.revision), result)

    async def range_stream(self, stream: MessageStream, call: Call) -> None:
        op = decode_range_stream(rpc.RangeRequest.FromString(await stream.receive() or b""), call.account)
        if not op.serializable:
            await self._store.refresh(past=op.revision > 0)
        room = self._max_request_bytes
        async with aclosing(self._store.stream(op, room)) as parts:
            while True:
                # Counts as queued while it is read: a client may have thousands of streams.
                async with call.hold(room) if call.hold is not None else nullcontext():
                    part = await anext(parts)
                    head = self._headers.at(part.end.revision) if part.end is not None else b""
                    stream.send(response_encoding.range_part(head, part))
                if part.end is not None:
                    return
                if stream.full:
                    await stream.drain()

    def put(self, request: bytes, call: Call) -> Awaitable[Answer]:
        return self._one(decode_put(rpc.PutRequest.FromString(request)), request, call)

    def delete_range(self, request: bytes, call: Call) -> Awaitable[Answer]:
        return self._one(decode_delete(rpc.DeleteRangeRequest.FromString(request)), request, call)

    def _one(self, op: Op, request: bytes, call: Call) -> Awaitable[Answer]:
        """Runs a single change as a transaction of one operation."""
        self._check_size(request)
        txn = Txn([], [op], [], alone=True, client=call.account)
        return self._counted(txn, LARGEST_ANSWER, call, self._one_answer)

    def _one_answer(self, done: TxnResult) -> Answer:
        result = done.results[0]
        header = self._headers.at(result.revision)
        if isinstance(result, PutResult):
            return response_encoding.put_response(header, result)
        assert isinstance(result, DeleteResult)
        return response_encoding.delete_response(header, result)

    def _txn_answer(self, done: TxnResult) -> Answer:
        return response_encoding.txn_answer(self._headers.at(done.revision), done)

    async def _counted(
        self, txn: Txn, most: int, call: Call, answer: Callable[[TxnResult], Answer]
    ) -> Answer:
        """Runs a transaction. Values that it reads count as queued from before the read to the response."""
        expected = self._store.expected_of(txn)
        if has_ranges(txn):
            expected = max(expected, self._max_txn_answer // 2)
        if expected > _LARGE and call.hold is not None:
            async with call.hold(expected):
                return answer(await self._store.txn(txn, most))
        done = await self._store.txn(txn, most)
        if call.room is not None and (size := _size(done)) > _LARGE:  # values have grown since the estimate
            await call.room(size)
        return answer(done)

    def txn(self, request: bytes, call: Call) -> Awaitable[Answer]:
        message = rpc.TxnRequest.FromString(request)
        op = decode_swap(message)
        if op is None:
            if len(request) > _LONG and operations(message) > MAX_TXN_OPS:
                decode_txn(message)  # raises now: its objects are many times as large as the request
            return self._txn(message, request, call)
        self._check_size(request)
        op.client = call.account
        return self._leased(op, call) if op.lease else self._store.swap(op, self, call)

    async def _leased(self, op: Swap, call: Call) -> Answer:
        await self._store.refresh_lease(op.lease)
        return await self._store.swap(op, self, call)

    # ---- see `kine.store.compare_and_swap.ResponseEncoder`

    def swapped(self, op: Swap, revision: int) -> bytes:
        return response_encoding.swap_response(self._headers.at(revision), revision, deleted=op.value is None)

    def refused(self, call: Call, result: TxnResult) -> Answer | Awaitable[Answer]:
        if call.room is not None and (size := _size(result)) > _LARGE:
            return self._refused_large(call.room(size), result)
        return self._txn_answer(result)

    async def _refused_large(self, room: Awaitable[None], result: TxnResult) -> Answer:
        await room
        return self._txn_answer(result)

    async def refused_later(self, call: Call, op: Range, waiting: Awaitable[RangeResult]) -> Answer:
        try:
            async with call.hold(self._store.expected(op)) if call.hold is not None else nullcontext():
                found = await waiting
                return self._txn_answer(TxnResult(found.revision, False, [found]))
        finally:
            if isinstance(waiting, UnreadValues):
                waiting.close()  # if it was never awaited

    def failed(self, error: Exception) -> Exception:
        return errors.rpc_error(error) if isinstance(error, errors.KNOWN) else error

    async def _txn(self, message: rpc.TxnRequest, request: bytes, call: Call) -> Answer:
        if len(request) > _LONG:
            await self._store.turns.next(call.account)
        txn = decode_txn(message, call.account)
        self._check_size(request)
        return await self._counted(txn, self._max_txn_answer, call, self._txn_answer)

    async def compact(self, request: bytes, call: Call) -> bytes:
        await self._store.compact(rpc.CompactionRequest.FromString(request).revision)
        return self._headers.at(self._store.index.revision)

    def _check_size(self, request: bytes) -> None:
        if len(request) > self._max_request_bytes:
            raise errors.request_too_large()


def _size(result: Result) -> int:
    """Bytes of the values in the result."""
    if isinstance(result, RangeResult):
        return result.size or sum(map(len, result.frames))
    if isinstance(result, PutResult):
        return len(result.prev or b"")
    if isinstance(result, DeleteResult):
        return sum(map(len, result.prev))
    return sum(map(_size, result.results))
