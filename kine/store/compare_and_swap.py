"""Compare-and-swap: one key is changed if its mod revision is the expected one.

Nearly all writes of Kubernetes have this shape: kube-apiserver's creates, updates and deletes are such
transactions. This module does for them what `plan` and `Store` do for any transaction, in a third of the
time and without a coroutine (bench scenarios `create`, `update`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kine.drivers.base import NewRow
from kine.futures import pass_on
from kine.store.errors import CompactedError
from kine.store.operations import (
    Range,
    RangeResult,
    Swap,
    TxnResult,
)
from kine.store.pending_write import CommitOutcome, PendingWrite
from kine.store.range_select import GoneError, UnreadValues
from kine.store.txn_plan import DecidedTxn, TxnBranch

if TYPE_CHECKING:
    from kine.store.index import Index
    from kine.store.range_select import RangeReader
    from kine.store.txn_plan import TtlOf

C = TypeVar("C", contravariant=True)
T = TypeVar("T", covariant=True)

_RANGES: list[tuple[bytes, bytes]] = []  # shared by all these plans, never changed
_MADE = TxnBranch(True, [])
_REFUSED = TxnBranch(False, [])


class ResponseEncoder(Protocol[C, T]):
    """Encoder of an outcome into the response of the caller's API; `context` is the caller's own."""

    def swapped(self, op: Swap, revision: int) -> T: ...

    def refused(self, context: C, result: TxnResult) -> T | Awaitable[T]: ...

    def refused_later(self, context: C, op: Range, waiting: Awaitable[RangeResult]) -> Awaitable[T]:
        """Encodes a refusal whose current value is still being read. Errors of that read are the store's."""

    def failed(self, error: Exception) -> Exception: ...


class CompareAndSwap(PendingWrite):
    """A queued compare-and-swap. Its future resolves to the encoded response, not to the outcome."""

    __slots__ = ("_codec", "_context", "_index", "_op", "_reads", "_ttl_of")

    def __init__(
        self,
        op: Swap,
        index: Index,
        reads: RangeReader,
        ttl_of: TtlOf,
        codec: ResponseEncoder[C, object],
        context: C,
        future: asyncio.Future[Any],
    ) -> None:
        super().__init__(_never, future, op.client)
        self._op = op
        self._index = index
        self._reads = reads
        self._ttl_of = ttl_of
        self._codec: ResponseEncoder[Any, object] = codec
        self._context = context

    def decide(self) -> DecidedTxn:
        op = self._op
        key = op.key
        newest = self._index.newest.get(key)
        live = newest if newest is not None and newest.version else None
        if op.mod != (0 if live is None else live.mod):
            return DecidedTxn([], False, {key}, _RANGES, _REFUSED)
        below = 0 if newest is None else newest.mod
        if op.value is None:
            row = NewRow(key, False, True, 0, below, 0, None, 0)
        else:
            lease = op.lease
            ttl = self._ttl_of(lease) if lease else 0
            if live is None:
                row = NewRow(key, True, False, 0, below, ttl, op.value, lease, 1)
            else:
                row = NewRow(key, False, False, live.create, below, ttl, op.value, lease, live.version + 1)
        return DecidedTxn([row], False, {key}, _RANGES, _MADE)

    def succeed(self, done: CommitOutcome) -> None:
        future = self.future
        if future.done():
            return
        if done.ids:
            future.set_result(self._codec.swapped(self._op, done.ids[-1]))
        elif not self._op.tell:
            self._refused(TxnResult(done.revision, False, []))
        else:
            self._tell(done.revision)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(self._codec.failed(error))

    def _tell(self, revision: int) -> None:
        """Answers with the key's current value, as the transaction's failure branch asks."""
        answer = self._reads.range(Range(self._op.key), revision, revision)
        if isinstance(answer, RangeResult):
            self._refused(TxnResult(revision, False, [answer]))
            return
        waiting = UnreadValues(answer, self._read)
        pass_on(
            self._codec.refused_later(self._context, Range(self._op.key), waiting),
            self.future,
            self._codec.failed,
        )

    def _refused(self, result: TxnResult) -> None:
        answer = self._codec.refused(self._context, result)
        if isinstance(answer, Awaitable):
            pass_on(answer, self.future, self._codec.failed)
        else:
            self.future.set_result(answer)

    async def _read(self, reading: Awaitable[RangeResult]) -> RangeResult:
        try:
            return await reading
        except GoneError:
            raise CompactedError(self._index.compact_revision) from None


def _never(pinned: object) -> DecidedTxn:
    raise AssertionError
