"""Who goes on, where many wait: each client in its turn, so that one with a thousand is one among others.

A client is whatever tells one from another, such as its connection's account; None stands for all work that
is nobody's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue in which clients take turns; what one of them has put in comes out in that order.

    Invariant: no client in `_lines` has an empty line, and `_count` is the sum of the lines' lengths.
    """

    __slots__ = ("_count", "_lines")

    def __init__(self) -> None:
        # Whose turn is next first. A dict would look again at all that have been taken from its front.
        self._lines: OrderedDict[object, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def held(self, client: object) -> int:
        """Items of this client."""
        line = self._lines.get(client)
        return 0 if line is None else len(line)

    @property
    def clients(self) -> int:
        return len(self._lines)

    def put(self, client: object, item: T) -> None:
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = deque()
        line.append(item)
        self._count += 1

    def put_back(self, client: object, item: T) -> None:
        """First of its client's, where that is."""
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = deque()
        line.appendleft(item)
        self._count += 1

    def take(self) -> T:
        """Raises StopIteration when empty."""
        lines = self._lines
        client = next(iter(lines))
        line = lines[client]
        item = line.popleft()
        self._count -= 1
        if not line:
            del lines[client]
        elif len(lines) > 1:
            lines.move_to_end(client)
        return item


class FairTurns:
    """Long work in slices, one slice in each turn of the event loop, whoever's it is.

    `asyncio.sleep(0)` lets other tasks go on, but all that do so run in one turn: a thousand tasks of a
    millisecond each keep every socket waiting for a second. Here they go one after the other.
    """

    __slots__ = ("_going", "_waiting")

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._going = False

    async def next(self, client: object = None) -> None:
        """Returns in a later turn of the loop, in which nobody else returns from here."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.put(client, turn)
        if not self._going:
            self._going = True
            loop.call_soon(self._let_go, loop)
        await turn

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        _settle_next(self._waiting)
        self._going = bool(self._waiting)
        if self._going:
            loop.call_soon(self._let_go, loop)


class FairSemaphore:
    """So many may work at once; whoever waits gets the next free place in its client's turn.

    Invariant: nobody waits while a place is free.
    """

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @asynccontextmanager
    async def one(self, client: object = None) -> AsyncIterator[None]:
        await self.acquire(client)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, client: object = None) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(client, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given to it just then
                self.release()
            raise

    def release(self) -> None:
        """The place goes to whoever waits next."""
        if not _settle_next(self._waiting):
            self._free += 1


def _settle_next(waiting: FairQueue[asyncio.Future[None]]) -> bool:
    """The next one that still waits goes on; false if there is none."""
    while waiting:
        turn = waiting.take()
        if not turn.done():  # else its task was cancelled
            turn.set_result(None)
            return True
    return False
