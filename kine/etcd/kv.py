"""etcdserverpb.KV: decode, ask the store, encode."""

from __future__ import annotations

from collections.abc import Awaitable

from kine.etcd import errors, wire
from kine.etcd.proto import rpc_pb2 as rpc
from kine.etcd.requests import decode_delete, decode_put, decode_range, decode_txn
from kine.etcd.wire import Headers
from kine.store.ops import DeleteResult, Op, PutResult, RangeResult, Txn
from kine.store.store import Store
from kine.transport.base import Call


class Kv:
    def __init__(self, store: Store, headers: Headers, max_request_bytes: int) -> None:
        self._store = store
        self._headers = headers
        self._max_request_bytes = max_request_bytes

    def range(self, request: bytes, call: Call) -> bytes | Awaitable[bytes]:
        result = self._store.range(decode_range(rpc.RangeRequest.FromString(request)))
        if type(result) is RangeResult:
            return wire.range_response(self._headers.at(result.revision), result)
        return self._range_later(result)  # type: ignore[arg-type]  # type() does not narrow the union

    async def _range_later(self, waiting: Awaitable[RangeResult]) -> bytes:
        result = await waiting
        return wire.range_response(self._headers.at(result.revision), result)

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

    async def txn(self, request: bytes, call: Call) -> bytes:
        txn = decode_txn(rpc.TxnRequest.FromString(request))
        self._check_size(request)
        result = await self._store.txn(txn)
        return wire.txn_response(self._headers.at(result.revision), result)

    async def compact(self, request: bytes, call: Call) -> bytes:
        await self._store.compact(rpc.CompactionRequest.FromString(request).revision)
        return self._headers.at(self._store.index.revision)

    def _check_size(self, request: bytes) -> None:
        if len(request) > self._max_request_bytes:
            raise errors.request_too_large()
