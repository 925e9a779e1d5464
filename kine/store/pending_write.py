"""A write on its way: how it is decided, and who is told of what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kine.store.txn_plan import DecidedTxn

Frames = dict[int, bytes]  # by revision
Planner = Callable[[Frames], DecidedTxn]  # given the values fetched for it so far
_NOTHING = DecidedTxn()


class CommitOutcome(NamedTuple):
    """A request's outcome: what was carried out, and where in the order of revisions."""

    plan: DecidedTxn
    ids: Sequence[int]  # of the plan's rows; empty for a plan without rows
    revision: int  # the state it was decided on; with rows: the one before the first of them


class PendingWrite:
    """A write on its way."""

    __slots__ = ("client", "future", "pinned", "plan", "planner", "until")

    def __init__(self, planner: Planner, future: asyncio.Future[Any], client: object = None) -> None:
        self.client = client
        self.planner = planner
        self.future = future
        self.plan = _NOTHING
        self.pinned: Frames | None = None
        self.until = 0.0  # event-loop time at which it is given up; set when it is first tried again

    def wait(self) -> None:
        """It will be decided upon again: until then its keys are enough, not the values that go into rows."""
        self.plan = DecidedTxn(keys=self.plan.keys)

    def decide(self) -> DecidedTxn:
        """Raises StoreError, MissingValuesError."""
        return self.planner(self.pinned or {})

    def succeed(self, done: CommitOutcome) -> None:
        if not self.future.done():
            self.future.set_result(done)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
