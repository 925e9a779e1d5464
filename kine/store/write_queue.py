"""The write queue: pending writes, clients in turn, and whether a group of them is being committed."""

from __future__ import annotations

import asyncio

from kine.fair_queue import FairQueue
from kine.store.errors import TooManyRequestsError
from kine.store.pending_write import CommitOutcome, PendingWrite, Planner

MAX_QUEUE = 20_000  # requests


class WriteQueue:
    __slots__ = ("_filled", "_settled", "waiting")

    def __init__(self) -> None:
        self.waiting: FairQueue[PendingWrite] = FairQueue()
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    def __len__(self) -> int:
        return len(self.waiting)

    def submit(self, planner: Planner, client: object = None) -> asyncio.Future[CommitOutcome]:
        """Queues a write.

        Raises TooManyRequestsError at once; the future fails with StoreError or DriverError.
        """
        done: asyncio.Future[CommitOutcome] = asyncio.get_running_loop().create_future()
        self.put(PendingWrite(planner, done, client))
        return done

    def put(self, request: PendingWrite) -> None:
        """Queues a write. Raises TooManyRequestsError."""
        waiting, client = self.waiting, request.client
        if len(waiting) >= MAX_QUEUE and waiting.held(client) * waiting.clients >= MAX_QUEUE:
            raise TooManyRequestsError  # clients with less than their share queued are still admitted
        waiting.put(client, request)
        self._filled.set()

    def wake(self) -> None:
        """Makes `filled` return, whether or not there is a request."""
        self._filled.set()

    async def filled(self) -> None:
        """Returns once a request is queued, or `wake` is called, after this call."""
        self._filled.clear()
        await self._filled.wait()

    # ---- the group that the writer has taken

    def begin_commit(self) -> None:
        self._settled.clear()

    def end_commit(self) -> None:
        self._settled.set()

    @property
    def committing(self) -> bool:
        return not self._settled.is_set()

    async def settled(self) -> None:
        """Returns when the group now being committed has been applied."""
        await self._settled.wait()
