"""A range that waits until the index is fresh, as every linearizable read of a shared database does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from kine.futures import pass_on
from kine.store.ops import Range, RangeResult

RangeNow = Callable[[Range], RangeResult | Awaitable[RangeResult]]
Failed = Callable[[Exception], Exception]


class Reading:
    """Its future is not for the result but for what `encode` makes of it, errors included.

    Told by a plain call that the index is fresh, it mostly has its answer at once: no task, no coroutine.
    """

    __slots__ = ("_encode", "_failed", "_op", "_range", "future")

    def __init__(
        self,
        op: Range,
        range_now: RangeNow,
        encode: Callable[[RangeResult], Any],
        failed: Failed,
        future: asyncio.Future[Any],
    ) -> None:
        self._op = op
        self._range = range_now
        self._encode = encode  # into the answer, or what to await for it
        self._failed = failed
        self.future = future

    def __call__(self, error: Exception | None) -> None:
        """See `kine.store.freshness.Told`."""
        future = self.future
        if future.done():  # its client has gone
            return
        if error is None:
            try:
                result = self._range(self._op)
                if type(result) is not RangeResult:
                    self._later(result)  # type: ignore[arg-type]  # type() does not narrow the union
                    return
                answer = self._encode(result)
                if isinstance(answer, Awaitable):
                    pass_on(answer, future, self._failed)
                else:
                    future.set_result(answer)
                return
            except Exception as raised:
                error = raised
        future.set_exception(self._failed(error))

    def _later(self, result: Awaitable[RangeResult]) -> None:
        async def answer() -> Any:
            answer = self._encode(await result)
            return await answer if isinstance(answer, Awaitable) else answer

        pass_on(answer(), self.future, self._failed)
