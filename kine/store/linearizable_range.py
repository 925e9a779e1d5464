"""A range that waits until the index is fresh, as every linearizable read of a shared database does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from kine.futures import pass_on
from kine.store.operations import Range, RangeResult

RangeNow = Callable[[Range], RangeResult | Awaitable[RangeResult]]
C = TypeVar("C", contravariant=True)
T = TypeVar("T", covariant=True)


class RangeEncoder(Protocol[C, T]):
    """What becomes of the result, for whoever has asked for it in some context."""

    def ranged(self, context: C, result: RangeResult) -> T | Awaitable[T]: ...

    def ranged_later(self, context: C, op: Range, waiting: Awaitable[RangeResult]) -> Awaitable[T]:
        """Of a result that has to be waited for: it is read or put together while one does."""

    def failed(self, error: Exception) -> Exception: ...


class LinearizableRange:
    """Its future is not for the result but for what the codec makes of it, errors included.

    Told by a plain call that the index is fresh, it mostly has its answer at once: no task, no coroutine.
    """

    __slots__ = ("_codec", "_context", "_op", "_range", "future")

    def __init__(
        self,
        op: Range,
        range_now: RangeNow,
        codec: RangeEncoder[C, object],
        context: C,
        future: asyncio.Future[Any],
    ) -> None:
        self._op = op
        self._range = range_now
        self._codec: RangeEncoder[Any, object] = codec
        self._context = context
        self.future = future

    def __call__(self, error: Exception | None) -> None:
        """See `kine.store.freshness.Told`."""
        future, codec = self.future, self._codec
        if future.done():  # its client has gone
            return
        if error is None:
            try:
                result = self._range(self._op)
                if type(result) is RangeResult:
                    answer = codec.ranged(self._context, result)
                else:
                    answer = codec.ranged_later(self._context, self._op, result)  # type: ignore[arg-type]  # type() does not narrow
                if isinstance(answer, Awaitable):
                    pass_on(answer, future, codec.failed)
                else:
                    future.set_result(answer)
                return
            except Exception as raised:
                error = raised
        future.set_exception(codec.failed(error))
