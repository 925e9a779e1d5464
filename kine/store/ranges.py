"""A range as of what is applied here, read again where compaction comes between the index and the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from kine.store.errors import TimedOutError
from kine.store.ops import LARGEST_ANSWER, Range, RangeResult
from kine.store.plan import check_revision
from kine.store.reads import GoneError, Unread

if TYPE_CHECKING:
    from kine.store.index import Index
    from kine.store.reads import Reads

_PATIENCE = 30.0  # seconds for which a read that compaction overtakes is tried again


class Ranges:
    __slots__ = ("_index", "_reads")

    def __init__(self, index: Index, reads: Reads) -> None:
        self._index = index
        self._reads = reads

    def range(self, op: Range, most: int = LARGEST_ANSWER) -> RangeResult | Awaitable[RangeResult]:
        """As of what is applied here; at once where it can. Raises StoreError, DriverError."""
        index = self._index
        if op.revision > 0:
            check_revision(op, index)
        revision = revision_of(op, index)
        answer = self._reads.range(op, revision, index.revision, most)
        if type(answer) is RangeResult:
            return answer
        return Unread(answer, partial(self._again, op=op, most=most))  # type: ignore[arg-type]

    async def _again(self, answer: Awaitable[RangeResult], op: Range, most: int) -> RangeResult:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                return await answer
            except GoneError:
                if loop.time() > until:
                    raise TimedOutError from None
                # Compaction came between the index and the rows: look again at what is there now.
                index = self._index
                check_revision(op, index)
                again = self._reads.range(op, revision_of(op, index), index.revision, most)
                if isinstance(again, RangeResult):
                    return again
                answer = again


def revision_of(op: Range, index: Index) -> int:
    """As in etcd, a negative revision asks for the present, too."""
    return op.revision if op.revision > 0 else index.revision
