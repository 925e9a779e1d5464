"""Connections kept for the next statement, by the rules of the four pool flags."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from kine.drivers.base import Options
from kine.drivers.sql.failures import Kind, StatementError

if TYPE_CHECKING:
    from sqlalchemy.pool import PoolProxiedConnection

DEFAULT_IDLE = 20
_WAIT = 10.0  # seconds, where waits for locks have no end


def pool(create: Callable[[], Any], options: Options) -> QueuePool:
    """A pool whose waiting is the caller's affair: with a limit on connections, ask only for a free one."""
    idle = options.max_idle_connections
    idle = DEFAULT_IDLE if idle == 0 else max(1, idle)  # as database/sql: 0 is the default
    limit = options.max_open_connections
    kept = min(idle, limit) if limit > 0 else idle
    made = QueuePool(
        create,
        pool_size=kept,
        max_overflow=limit - kept if limit > 0 else -1,
        recycle=options.connection_max_lifetime or -1,
        reset_on_return=None,  # whoever hands one back has ended its transaction
        use_lifo=True,  # so that those not needed grow old
        timeout=0,
    )
    if options.connection_max_idle_time > 0:
        event.listen(made, "checkin", _left)
        event.listen(made, "checkout", _Youth(options.connection_max_idle_time))
    return made


class Place(Protocol):
    """What the pool keeps: room for a connection, which is made when it is first needed."""

    generation: int

    @property
    def usable(self) -> bool: ...

    def close(self) -> None: ...


def fit(place: Place, generation: Generation) -> bool:
    return place.usable and place.generation == generation.number


def take(made: QueuePool, generation: Generation) -> PoolProxiedConnection:
    """The place used last that has a fit connection; an empty one if none has.

    A connection that was lost leaves its place empty, and on top: the server may take no new one, while
    others are idle below.
    """
    passed = []
    taken = made.connect()
    while not fit(cast("Place", taken.dbapi_connection), generation) and made.checkedin():
        passed.append(taken)
        taken = made.connect()
    for one in passed:
        cast("Place", one.dbapi_connection).close()
        one.close()
    return taken


class Free:
    """How many connections may be in use; the wait for one is as long as that for a lock, and no longer."""

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait or _WAIT
        self._free = asyncio.Semaphore(limit) if limit > 0 else None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Raises StatementError: nothing has been sent."""
        if self._free is None:
            yield
            return
        if self._free.locked():
            try:
                async with asyncio.timeout(self._wait):
                    await self._free.acquire()
            except TimeoutError:
                raise StatementError(
                    Kind.AWAY,
                    "pool",
                    f"all {self._limit} connections to the database were in use for {self._wait:.0f} s"
                    " (--datastore-max-open-connections)",
                ) from None
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()


class Generation:
    """Connections made before one of them was found lost have most likely gone with it, later ones not."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def end(self, number: int) -> None:
        """One of generation `number` was found to be of no more use."""
        if number == self.number:
            self.number += 1


def _left(connection: object, record: Any) -> None:
    record.info["left"] = monotonic()


class _Youth:
    def __init__(self, limit: float) -> None:
        self._limit = limit

    def __call__(self, connection: object, record: Any, fairy: object) -> None:
        if monotonic() - record.info.pop("left", monotonic()) > self._limit:
            raise DisconnectionError("idle for too long")  # makes the pool replace it
