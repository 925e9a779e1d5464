"""Waiting for a database that is not there yet, as at the start of a whole cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kine.drivers.base import DriverError
from kine.drivers.sql.failures import StatementError

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds, as Go kine
_BETWEEN = 1.0
_TELL_EVERY = 10.0


async def until_open(attempt: Callable[[], Awaitable[None]], patience: float = PATIENCE) -> None:
    """Repeats `attempt` until it succeeds. Raises DriverError with the last reason."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    told = ("", 0.0)
    while True:
        try:
            await attempt()
        except StatementError as error:
            waited = loop.time() - start
            if waited >= patience:
                raise DriverError(
                    f"the database did not let us in for {waited:.0f} seconds: {error};"
                    " check that it runs, and the endpoint's host, port, user and password"
                ) from None
            if told[0] != str(error) or waited - told[1] >= _TELL_EVERY:
                log.warning(
                    "waiting for the database, %d s of %d s so far: %s", int(waited), int(patience), error
                )
                told = (str(error), waited)
            await asyncio.sleep(_BETWEEN)
        else:
            return
