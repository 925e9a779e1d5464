"""etcdserverpb.KV: decode, ask the store, encode."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from kine.etcd import errors, wire
from kine.etcd.proto import rpc_pb2 as rpc
from kine.etcd.requests import decode_delete, decode_put, decode_range, decode_swap, decode_txn
from kine.etcd.wire import Headers
from kine.store.ops import DeleteResult, Op, PutResult, RangeResult, Swap, Txn, TxnResult
from kine.store.store import Store
from kine.transport.base import Answer, Call

_LARGE = 256 * 1024  # bytes of an answer that asks for room


class Kv:
    def __init__(self, store: Store, headers: Headers, max_request_bytes: int) -> None:
        self._store = store
        self._headers = headers
        self._max_request_bytes = max_request_bytes

    def range(self, request: bytes, call: Call) -> Answer | Awaitable[Answer]:
        op = decode_range(rpc.RangeRequest.FromString(request))
        if not op.serializable and (lacking := self._store.lacking()) is not None:
            return self._store.read(lacking, op, partial(self._ranged, call), self.failed)
        result = self._store.range(op)
        if type(result) is RangeResult:
            return wire.range_answer(self._headers.at(result.revision), result)
        return self._range_later(result, call)  # type: ignore[arg-type]  # type() does not narrow the union

    async def _range_later(self, waiting: Awaitable[RangeResult], call: Call) -> Answer:
        answer = self._ranged(call, await waiting)
        return await answer if isinstance(answer, Awaitable) else answer

    def _ranged(self, call: Call, result: RangeResult) -> Answer | Awaitable[Answer]:
        # Those that waited go on all at once: the frames are the cache's, but an answer may be a copy.
        if call.room is not None and (size := result.size or sum(map(len, result.frames))) > _LARGE:
            return self._ranged_large(call.room(size), result)
        return wire.range_answer(self._headers.at(result.revision), result)

    async def _ranged_large(self, room: Awaitable[None], result: RangeResult) -> Answer:
        await room
        return wire.range_answer(self._headers.at(result.revision), result)

    async def put(self, request: bytes, call: Call) -> bytes:
        op = decode_put(rpc.PutRequest.FromString(request))
        result = await self._one(op, request)
        assert isinstance(result, PutResult)
        return wire.put_response(self._headers.at(result.revision), result)

    async def delete_range(self, request: bytes, call: Call) -> bytes:
        op = decode_delete(rpc.DeleteRangeRequest.FromString(request))
        result = await self._one(op, request)
        assert isinstance(result, DeleteResult)
        return wire.delete_response(self._headers.at(result.revision), result)

    async def _one(self, op: Op, request: bytes) -> object:
        """A change by itself is a transaction of one operation."""
        self._check_size(request)
        done = await self._store.txn(Txn([], [op], [], alone=True))
        return done.results[0]

    def txn(self, request: bytes, call: Call) -> Awaitable[bytes]:
        message = rpc.TxnRequest.FromString(request)
        op = decode_swap(message)
        if op is None or (op.lease and not self._store.leases.known(op.lease)):
            return self._txn(message, request)
        self._check_size(request)
        return self._store.swap(op, self)

    # ---- see `kine.store.swap.Codec`

    def swapped(self, op: Swap, revision: int) -> bytes:
        return wire.swap_response(self._headers.at(revision), revision, deleted=op.value is None)

    def refused(self, result: TxnResult) -> bytes:
        return wire.txn_response(self._headers.at(result.revision), result)

    def failed(self, error: Exception) -> Exception:
        return errors.rpc_error(error) if isinstance(error, errors.KNOWN) else error

    async def _txn(self, message: rpc.TxnRequest, request: bytes) -> bytes:
        txn = decode_txn(message)
        self._check_size(request)
        result = await self._store.txn(txn)
        return wire.txn_response(self._headers.at(result.revision), result)

    async def compact(self, request: bytes, call: Call) -> bytes:
        await self._store.compact(rpc.CompactionRequest.FromString(request).revision)
        return self._headers.at(self._store.index.revision)

    def _check_size(self, request: bytes) -> None:
        if len(request) > self._max_request_bytes:
            raise errors.request_too_large()
