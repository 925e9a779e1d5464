"""A pending write: the planner that decides it, and the future that gets its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kine.store.txn_plan import DecidedTxn

Frames = dict[int, bytes]  # by revision
Planner = Callable[[Frames], DecidedTxn]  # given the values fetched for it so far
_NOTHING = DecidedTxn()


class CommitOutcome(NamedTuple):
    """The outcome of a write: the plan that was carried out, and its revisions."""

    plan: DecidedTxn
    ids: Sequence[int]  # of the plan's rows; empty for a plan without rows
    revision: int  # of the state it was decided on; with rows: the revision before the first of them


class PendingWrite:
    """A write that is queued or being committed."""

    __slots__ = ("client", "future", "pinned", "plan", "planner", "until")

    def __init__(self, planner: Planner, future: asyncio.Future[Any], client: object = None) -> None:
        self.client = client
        self.planner = planner
        self.future = future
        self.plan = _NOTHING
        self.pinned: Frames | None = None
        self.until = 0.0  # event-loop time at which retries stop; set at the first retry

    def wait(self) -> None:
        """Drops the planned rows, whose values take memory, before a retry plans again; its keys stay."""
        self.plan = DecidedTxn(keys=self.plan.keys)

    def decide(self) -> DecidedTxn:
        """Plans the write on the current index. Raises StoreError, MissingValuesError."""
        return self.planner(self.pinned or {})

    def succeed(self, done: CommitOutcome) -> None:
        if not self.future.done():
            self.future.set_result(done)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
