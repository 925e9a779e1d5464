"""Waiting for a database that is not there yet, as at the start of a whole cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kine.drivers.base import DriverError

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds, as Go kine
_BETWEEN = 1.0
_TELL_EVERY = 10.0


async def until_open(
    attempt: Callable[[], Awaitable[None]],
    away: type[Exception] | tuple[type[Exception], ...],
    name: str,
    advice: str = "",
    between: float = _BETWEEN,
    patience: float = PATIENCE,
) -> None:
    """Repeats `attempt` until it no longer raises what `away` says, for `patience` seconds.

    Raises DriverError with the last reason.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    told = ("", 0.0)
    while True:
        try:
            await attempt()
        except away as error:
            waited = loop.time() - start
            if waited >= patience:
                long = f" for {waited:.0f} seconds" if patience else ""
                raise DriverError(f"{name} did not let us in{long}: {error}{advice}") from None
            if told[0] != str(error) or waited - told[1] >= _TELL_EVERY:
                log.warning(
                    "waiting for %s, %d s of %d s so far: %s", name, int(waited), int(patience), error
                )
                told = (str(error), waited)
            await asyncio.sleep(between)
        else:
            return
