"""The query for the newest id, without a coroutine: each linearizable read waits for one.

See bench scenario `get-1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING

from kine.drivers.postgres.connection import Deadline
from kine.drivers.postgres.failures import translated
from kine.drivers.sql.failures import StatementError
from kine.drivers.sql.statement_timing import report
from kine.futures import pass_on

if TYPE_CHECKING:
    import psycopg

    from kine.drivers.base import Options
    from kine.drivers.postgres.pipeline import Answer, Pipeline, Question


class NewestIdQuery:
    """One query on an open connection; `future` is the newest id, or fails with DriverError.

    On an error, and if the server is a replica, `failed` is awaited: it retries the query or raises.
    """

    __slots__ = ("_begun", "_deadline", "_failed", "_options", "future")

    def __init__(self, options: Options, failed: Callable[[psycopg.Error | None], Awaitable[int]]) -> None:
        self._options = options
        self._failed = failed  # called with None if the server is a replica
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._begun = perf_counter()
        self._deadline: Deadline | None = None

    def put(self, wire: Pipeline, question: Question, limit: float, *, prepared: bool) -> asyncio.Future[int]:
        self._deadline = Deadline(wire.connection, limit)
        wire.put((question,), self._answered, prepared=prepared)
        return self.future

    def _answered(self, answers: list[Answer], error: psycopg.Error | None) -> None:
        assert self._deadline is not None
        self._deadline.cancel()
        if self.future.done():
            return
        code = "" if error is None else translated(error).code
        report("CurrentRev", code, perf_counter() - self._begun, self._options)
        if error is None:
            newest, recovering = newest_of(answers[0])
            if not recovering:
                self.future.set_result(newest)
                return
        pass_on(self._failed(error), self.future, _translated)


def _translated(error: Exception) -> Exception:
    return error.translated() if isinstance(error, StatementError) else error


def newest_of(answer: Answer) -> tuple[int, bool]:
    """The newest id, and whether the server is a replica, whose newest id may be outdated."""
    newest = int.from_bytes(answer.get_value(0, 0) or b"", "big")
    return newest, answer.nfields > 1 and answer.get_value(0, 1) == b"\1"
