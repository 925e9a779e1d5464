"""What a transaction answers, made when its rows have ids: reads of the index between those ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.store.ops import CompactedError, Delete, DeleteResult, Put, PutResult, Range, RangeResult, TxnResult
from kine.store.reads import GoneError

if TYPE_CHECKING:
    from kine.store.index import Entry, Index
    from kine.store.ops import Result
    from kine.store.plan import Branch, Step
    from kine.store.reads import Reads
    from kine.store.request import Done


class Answers:
    __slots__ = ("_index", "_reads")

    def __init__(self, index: Index, reads: Reads) -> None:
        self._index = index
        self._reads = reads

    async def branch(self, branch: Branch, done: Done) -> TxnResult:
        """Of the branch taken. Raises CompactedError, DriverError."""
        results = [await self._step(step, done) for step in branch.steps]
        end = done.ids[-1] if done.ids else done.revision
        return TxnResult(end, branch.succeeded, results)

    async def _step(self, step: Step, done: Done) -> Result:
        op = step.op
        reached = done.ids[step.after - 1] if step.after else done.revision
        if isinstance(op, Put):
            prev = await self._frames(step.replaced) if op.prev_kv else []
            return PutResult(reached, prev[0] if prev else None)
        if isinstance(op, Delete):
            prev = await self._frames(step.replaced) if op.prev_kv else []
            return DeleteResult(reached, len(step.replaced), prev)
        if isinstance(op, Range):
            answer = self._reads.range(op, op.revision or reached, reached)
            if isinstance(answer, RangeResult):
                return answer
            try:
                return await answer
            except GoneError:
                raise CompactedError(self._index.compact_revision) from None
        assert step.branch is not None
        nested = await self.branch(step.branch, done)
        nested.revision = 0  # etcd leaves the header of a nested transaction empty
        return nested

    async def _frames(self, entries: list[Entry]) -> list[bytes]:
        try:
            return [encoded for _, encoded in await self._reads.frames(entries)]
        except GoneError:
            return []
