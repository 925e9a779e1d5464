"""Fair scheduling among clients: a round-robin queue, loop turns, and a semaphore.

Clients take turns, so that one with a thousand waiting tasks gets no more than another. A client is any
hashable object that identifies it, such as its connection's account; None stands for all work of no client.
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
    """A round-robin queue over clients; the items of one client stay in order.

    Invariant: no client in `_lines` has an empty line, and `_count` is the sum of the lines' lengths.
    """

    __slots__ = ("_count", "_lines")

    def __init__(self) -> None:
        # The next client first. Taking from the front of a dict would scan all entries deleted there before.
        self._lines: OrderedDict[object, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def held(self, client: object) -> int:
        """Number of items of this client."""
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
        """Adds an item before the client's others; the client keeps its place in the rotation."""
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = deque()
        line.appendleft(item)
        self._count += 1

    def take(self) -> T:
        """Removes and returns the next item. Raises StopIteration when empty."""
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
    """Runs long work in slices, one slice in each iteration of the event loop, over all clients.

    `asyncio.sleep(0)` lets other tasks run, but all tasks that call it run in one iteration: a thousand tasks
    of a millisecond each keep every socket waiting for a second. Here they run one per iteration.
    """

    __slots__ = ("_going", "_waiting")

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._going = False

    async def next(self, client: object = None) -> None:
        """Returns in a later loop iteration, in which no other call of `next` returns."""
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
    """A semaphore whose waiters are served round-robin by client.

    Invariant: no task waits while a place is free.
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
            if turn.done() and not turn.cancelled():  # it got the place just before the cancellation
                self.release()
            raise

    def release(self) -> None:
        """Passes the place to the next waiter."""
        if not _settle_next(self._waiting):
            self._free += 1


def _settle_next(waiting: FairQueue[asyncio.Future[None]]) -> bool:
    """Wakes the next task that still waits; false if there is none."""
    while waiting:
        turn = waiting.take()
        if not turn.done():  # else its task was cancelled
            turn.set_result(None)
            return True
    return False
