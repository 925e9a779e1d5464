"""Linearizable range read: it waits until the index is fresh, as a shared database requires."""

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
    """Encoder of a result into the response of the caller's API; `context` is the caller's own."""

    def ranged(self, context: C, result: RangeResult) -> T | Awaitable[T]: ...

    def ranged_later(self, context: C, op: Range, waiting: Awaitable[RangeResult]) -> Awaitable[T]:
        """Encodes a result that is not there yet: its values are read, or its chunks built, meanwhile."""

    def failed(self, error: Exception) -> Exception: ...


class LinearizableRange:
    """A pending read. Its future resolves to the response the codec makes of the result, or to its error.

    Called when the index is fresh, it mostly has its answer at once: no task, no coroutine.
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
        if future.done():  # its client has disconnected
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
