"""Waiting for a database that is not available yet, as at the start of a whole cluster."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from kine.drivers.base import PATIENCE, DriverError

log = logging.getLogger(__name__)

_BETWEEN = 1.0
_TELL_EVERY = 10.0
_OPENING = ("kine.drivers.", "kine.store.")  # loggers whose lines an attempt repeats
_SECONDS = re.compile(r"\d+\.\d+ s\b")  # durations, which differ from one attempt to the next


class _Once(logging.Filter):
    """A filter that passes each text once. Every handler needs its own."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == __name__ or not record.name.startswith(_OPENING):
            return True
        text = _SECONDS.sub("", record.getMessage())
        new = text not in self._passed
        self._passed.add(text)
        return new


@contextmanager
def _each_text_once() -> Iterator[None]:
    """Suppresses repeated log lines of the attempts: a line is logged again only if its text has changed."""
    filters = [(handler, _Once()) for handler in logging.getLogger().handlers]
    for handler, once in filters:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in filters:
            handler.removeFilter(once)


async def until_open(
    attempt: Callable[[], Awaitable[None]],
    away: type[Exception] | tuple[type[Exception], ...],
    name: str,
    advice: str = "",
    between: float = _BETWEEN,
    patience: float = PATIENCE,
    on_wait: Callable[[str], None] = lambda why: None,
) -> None:
    """Repeats `attempt` until it no longer raises `away`, for up to `patience` seconds.

    A reason is logged when it is new, and every ten seconds; `on_wait` is called with it at each attempt. Log
    lines of the attempts themselves appear once. Raises DriverError with the last reason.
    """
    with _each_text_once():
        await _until_open(attempt, away, name, advice, between, patience, on_wait)


async def _until_open(
    attempt: Callable[[], Awaitable[None]],
    away: type[Exception] | tuple[type[Exception], ...],
    name: str,
    advice: str,
    between: float,
    patience: float,
    on_wait: Callable[[str], None],
) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    told: dict[str, float] = {}  # seconds from the start when it was logged last, by reason
    while True:
        try:
            await attempt()
        except away as error:
            waited = loop.time() - start
            on_wait(f"waiting for {name}: {error}")
            if waited >= patience:
                within = f" within {waited:.0f} s" if patience else ""
                known = ";" in str(error)  # it has advice of its own, better than the general one
                raise DriverError(
                    f"could not connect to {name}{within}: {error}{'' if known else advice}"
                ) from None
            if waited - told.get(str(error), -_TELL_EVERY) >= _TELL_EVERY:
                log.warning(
                    "waiting for %s, %d s of %d s so far: %s", name, int(waited), int(patience), error
                )
                told[str(error)] = waited
            await asyncio.sleep(between)
        else:
            return
