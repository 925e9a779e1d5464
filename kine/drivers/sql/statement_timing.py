"""Timing of SQL statements: each goes to the metrics, and to the log if it was slow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from kine.drivers.base import Options
from kine.observe.metrics import observe_sql

log = logging.getLogger(__name__)


class StatementOutcome:
    """The error code of a statement, set by the caller that runs it."""

    __slots__ = ("code",)

    def __init__(self) -> None:
        self.code = ""


@contextmanager
def timed(name: str, options: Options) -> Iterator[StatementOutcome]:
    start = perf_counter()
    outcome = StatementOutcome()
    try:
        yield outcome
    finally:
        report(name, outcome.code, perf_counter() - start, options)


def report(name: str, code: str, seconds: float, options: Options) -> None:
    observe_sql(name, code, seconds)
    if 0 < options.slow_sql_threshold <= seconds:
        severe = seconds >= options.slow_sql_warning_threshold
        log.log(logging.WARNING if severe else logging.INFO, "slow SQL: %s took %.3f s", name, seconds)
