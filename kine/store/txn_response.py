"""Transaction responses, made once the rows have ids: reads of the index at revisions between those ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.store.errors import AnswerTooLargeError, CompactedError
from kine.store.operations import (
    Delete,
    DeleteResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    TxnResult,
)
from kine.store.range_select import GoneError

if TYPE_CHECKING:
    from kine.fair_queue import FairTurns
    from kine.store.index import Entry, Index
    from kine.store.operations import Result
    from kine.store.pending_write import CommitOutcome
    from kine.store.range_select import RangeReader
    from kine.store.txn_plan import TxnBranch, TxnStep


class WorkLimit:
    """The bytes that one transaction's answer may still take, and its turns with others between ranges."""

    __slots__ = ("_client", "_limit", "_turns", "left")

    def __init__(self, limit: int, turns: FairTurns, client: object) -> None:
        self._client = client
        self._limit = limit
        self._turns = turns
        self.left = limit

    def take(self, frames: list[bytes]) -> None:
        """Counts the bytes of `frames`. Raises AnswerTooLargeError."""
        self.left -= sum(map(len, frames))
        self.check()

    def check(self) -> None:
        """Raises AnswerTooLargeError if more bytes were counted than the limit allows."""
        if self.left < 0:
            raise AnswerTooLargeError(self._limit)

    async def pause(self) -> None:
        await self._turns.next(self._client)


class TxnResponses:
    __slots__ = ("_index", "_reads")

    def __init__(self, index: Index, reads: RangeReader) -> None:
        self._index = index
        self._reads = reads

    async def branch(self, branch: TxnBranch, done: CommitOutcome, meter: WorkLimit) -> TxnResult:
        """Answers the branch taken. Raises CompactedError, AnswerTooLargeError, DriverError."""
        results = [await self._step(step, done, meter) for step in branch.steps]
        end = done.ids[-1] if done.ids else done.revision
        return TxnResult(end, branch.succeeded, results)

    async def _step(self, step: TxnStep, done: CommitOutcome, meter: WorkLimit) -> Result:
        op = step.op
        reached = done.ids[step.after - 1] if step.after else done.revision
        if isinstance(op, Put):
            prev = await self._frames(step.replaced, meter) if op.prev_kv else []
            return PutResult(reached, prev[0] if prev else None)
        if isinstance(op, Delete):
            prev = await self._frames(step.replaced, meter) if op.prev_kv else []
            return DeleteResult(reached, len(step.replaced), prev)
        if isinstance(op, Range):
            return await self.range(op, op.revision or reached, reached, meter)
        assert step.branch is not None
        nested = await self.branch(step.branch, done, meter)
        nested.revision = 0  # etcd leaves the header of a nested transaction empty
        return nested

    async def range(self, op: Range, revision: int, header: int, meter: WorkLimit) -> RangeResult:
        """Answers one range. Raises CompactedError, AnswerTooLargeError, DriverError."""
        found = self._reads.range(op, revision, header, meter.left)
        if not isinstance(found, RangeResult):
            try:
                found = await found
            except GoneError:
                raise CompactedError(self._index.compact_revision) from None
        meter.take(found.frames)
        if op.end is not None:
            await meter.pause()
        return found

    async def _frames(self, entries: list[Entry], meter: WorkLimit) -> list[bytes]:
        try:
            found = [encoded for _, encoded in await self._reads.frames(entries, meter.left)]
        except GoneError:
            return []
        meter.take(found)
        return found
