"""Connection pool, configured by the four pool flags."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from typing import Generic, Protocol, TypeVar

from kine.drivers.base import Options
from kine.drivers.sql.failures import Kind, StatementError

_TRIAL = 1.0  # seconds in which new connections are not suspected
_WAIT = 10.0  # seconds to wait for a connection if waits for locks have no limit


class PooledResource(Protocol):
    """A pooled slot for a connection, which is made when it is first needed."""

    generation: int
    made: float  # by `monotonic`

    @property
    def usable(self) -> bool: ...

    def close(self) -> None: ...


def fit(place: PooledResource, generation: Generation) -> bool:
    return place.usable and place.generation == generation.number


P = TypeVar("P", bound=PooledResource)


class Pool(Generic[P]):
    """Idle connections; the one used last is taken first, so that surplus ones reach their idle time.

    `ConnectionSlots` bounds how many are in use. SQLAlchemy's pool, used before with its limits, resets and
    waiting turned off, costs each kine 0.25 s of its start and 25 MB.
    """

    def __init__(self, create: Callable[[], P], options: Options) -> None:
        self._create = create
        limit = options.max_open_connections
        self._kept = min(options.max_idle_connections, limit) if limit > 0 else options.max_idle_connections
        self._lifetime = options.connection_max_lifetime
        self._idle_time = options.connection_max_idle_time
        self._idle: deque[tuple[P, float]] = deque()  # since when; the longest idle first
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, generation: Generation) -> P:
        """Returns the slot used last that has a fit connection, or an empty slot.

        A lost connection is skipped rather than replaced: the server may accept no new one while others are
        idle.
        """
        now = monotonic()
        while self._idle:
            place, since = self._idle.pop()
            old = self._lifetime and now - place.made > self._lifetime
            if not old and now - since <= (self._idle_time or inf) and fit(place, generation):
                return place
            place.close()
        return self._create()

    def give(self, place: P) -> None:
        """Takes a slot back. The caller has ended its transaction, or closed its connection."""
        if not place.usable:
            return
        if self._closed or len(self._idle) >= self._kept:
            place.close()
            return
        self._idle.append((place, monotonic()))
        if self._timer is None and self._idle_time > 0:
            self._wait(self._idle_time)

    def close(self) -> None:
        """Closes the idle connections. May run in a thread of its own, once `take` is not called any more."""
        self._closed = True
        while self._idle:
            self._idle.popleft()[0].close()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._close_idle)

    def _close_idle(self) -> None:
        self._timer = None
        while self._idle and not self._closed:
            left = self._idle[0][1] + self._idle_time - monotonic()
            if left > 0:
                self._wait(left)
                return
            self._idle.popleft()[0].close()


class ConnectionSlots:
    """Limit on connections in use. If all are, a request waits up to the lock timeout, and then fails."""

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait or _WAIT
        self._free = asyncio.Semaphore(limit) if limit > 0 else None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Holds a slot. Raises StatementError if none gets free: nothing has been sent then."""
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
    """Generation of connections: when one is found lost, those made before that are most likely lost too."""

    __slots__ = ("_suspected", "number")

    def __init__(self) -> None:
        self.number = 0
        self._suspected = 0.0

    def end(self, number: int) -> None:
        """Ends generation `number`, as one of its connections was lost."""
        if number == self.number:
            self.number += 1

    def suspect(self, number: int) -> bool:
        """Whether to retry, on another connection, a statement refused on one of generation `number`.

        A connection carries state that others do not have: plans, a role, a search path, a server that was
        made a replica. A statement that is refused on a new connection as well is not the connection's fault.
        """
        if number == self.number:
            now = monotonic()
            if now - self._suspected < _TRIAL:
                return False
            self._suspected = now
            self.number += 1
        return True
