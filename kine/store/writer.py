"""The writer: plans queued writes on the index, and commits them in groups.

While a group is being committed the next one gathers, so the group's size adapts to the load: a lone write
is committed at once, and sixty-four clients share one commit. A request that touches a key which its group
already changes waits for the next group, and is planned on the outcome. Nothing here depends on being the
only process on the database: rows of other writers show as a conflict or as `BehindError`, and the request
is decided again on the state that caused it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import thread_time
from typing import TYPE_CHECKING, Protocol

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import (
    BehindError,
    DriverError,
    InvalidKeyError,
    Log,
    NoSpaceError,
    RefusedError,
    TooLargeError,
    Write,
)
from kine.store.errors import StoreError, TimedOutError
from kine.store.index import in_range
from kine.store.pending_write import CommitOutcome, Frames, PendingWrite
from kine.store.txn_plan import MissingValuesError

if TYPE_CHECKING:
    from kine.drivers.base import NewRow, Outcome
    from kine.store.index import Entry, Index
    from kine.store.write_queue import WriteQueue

log = logging.getLogger(__name__)

_MAX_ROWS = 512  # in one group
_MAX_BYTES = 8 * 1024 * 1024
# Seconds of CPU for planning requests before the event loop gets its turn: many may end without a row, or
# wait for a later group, and some look at thousands of keys.
_DECIDING = 0.010
# Seconds for which a request is retried if other writers always come first. Most clients that set a deadline
# set an earlier one, at which the transport cancels the request.
_PATIENCE = 30.0
_SPLITS = 16  # consecutive failed parts of a group, after which the error is taken to concern all requests


class Applying(Protocol):
    """See `kine.store.apply_rows`."""

    index: Index

    def committed(self, rows: Sequence[NewRow], ids: Sequence[int]) -> None:
        """Applies rows this instance committed, unless rows of other writers come before or between them."""


class Following(Protocol):
    """See `kine.store.tailer`."""

    async def catch_up(self, revision: int) -> None: ...

    async def doubt(self) -> None:
        """Checks whether the database has gone back, and reloads the index if so. Raises DriverError."""

    async def rewind(self) -> None:
        """Reloads the index, as the database has certainly gone back. Raises DriverError."""


class Fresh(Protocol):
    """See `kine.store.freshness`."""

    def revision_to_reach(self) -> int | None:
        """Returns None if everything committed by now is applied."""

    async def refresh(self) -> None:
        """Returns when everything that was committed at the call is applied. Raises DriverError."""


class Values(Protocol):
    """See `kine.store.range_select`."""

    async def frames_there(self, entries: list[Entry]) -> Frames:
        """Returns frames by revision; none if a row was compacted. Raises DriverError."""


class Writer:
    def __init__(
        self,
        driver: Log,
        queue: WriteQueue,
        *,
        applier: Applying,
        tailer: Following,
        freshness: Fresh,
        values: Values,
        observe: Callable[[int], None],
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._waiting = queue.waiting
        self._applier = applier
        self._index = applier.index
        self._tailer = tailer
        self._freshness = freshness
        self._values = values
        self._observe = observe
        self.no_space = False  # the database was full at the last write
        self._stopping = False
        self._aside = BackgroundTasks()
        self._failing = ""  # the reason logged last, until a write succeeds

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        while True:
            if not self._waiting:
                if self._stopping:
                    break
                await self._queue.filled()
                continue
            group = self._gather()
            if group:
                self._queue.begin_commit()
                try:
                    await self._commit(group)
                finally:
                    self._queue.end_commit()
            else:
                await asyncio.sleep(0)
        await self._aside.ended()

    def stop(self) -> None:
        """Makes `run` return once the queue is empty."""
        self._stopping = True
        self._queue.wake()

    # ---- one group

    def _gather(self) -> list[PendingWrite]:
        group: list[PendingWrite] = []
        later: list[PendingWrite] = []
        rows = size = 0
        changing: set[bytes] = set()
        queue = self._waiting
        until = thread_time() + _DECIDING
        while queue and rows < _MAX_ROWS and size < _MAX_BYTES and len(later) < _MAX_ROWS:
            request = queue.take()
            if request.future.done():  # its client has disconnected
                continue
            if not request.plan.keys.isdisjoint(changing):  # by its last plan's keys: it waits again
                later.append(request)
                continue
            if thread_time() > until:
                later.append(request)
                break
            if not self._decided(request):
                continue
            plan = request.plan
            if not plan.keys.isdisjoint(changing) or (plan.ranges and _touches(plan.ranges, changing)):
                later.append(request)
                continue
            group.append(request)
            changing |= plan.keys
            for row in plan.rows:
                rows += 1
                size += len(row.name) + len(row.value or b"")
        for request in reversed(later):
            request.wait()
            queue.put_back(request.client, request)
        return group

    async def _commit(self, group: list[PendingWrite]) -> None:
        error = await self._try(group)
        if error is None:
            return
        if len(group) == 1 or not isinstance(error, _MAY_BE_OF_ONE):
            self._failed(group, error)
            return
        guilty, rest = self._checked(group) if isinstance(error, InvalidKeyError) else ([], group)
        for request, its in guilty:
            self._failed([request], its)
        if guilty:
            if rest:
                await self._commit(rest)
        else:
            await self._commit_in_parts(group, error)

    def _checked(
        self, group: list[PendingWrite]
    ) -> tuple[list[tuple[PendingWrite, DriverError]], list[PendingWrite]]:
        """Returns the requests that this database cannot store, each with its error, and the others."""
        guilty: list[tuple[PendingWrite, DriverError]] = []
        rest: list[PendingWrite] = []
        for request in group:
            try:
                for row in request.plan.rows:
                    self._driver.check(row)
            except DriverError as error:
                guilty.append((request, error))
            else:
                rest.append(request)
        return guilty, rest

    async def _commit_in_parts(self, group: list[PendingWrite], error: DriverError) -> None:
        """Bisects a group that the database refuses, perhaps because of one request, and commits the parts.

        Small requests come first, so that those too large for a nearly full database are found last.
        """
        parts = deque(_halves(sorted(group, key=_size)))
        failures = 0  # in a row
        while parts:
            part = parts.popleft()
            found = await self._try(part)
            if found is None:
                failures = 0
                continue
            error, failures = found, failures + 1
            if failures > _SPLITS or not isinstance(error, _MAY_BE_OF_ONE):
                self._failed([*part, *(request for later in parts for request in later)], error)
                return
            if len(part) == 1:
                self._failed(part, error)
            else:
                parts.extendleft(reversed(_halves(part)))

    def _failed(self, group: list[PendingWrite], error: DriverError) -> None:
        if isinstance(error, NoSpaceError):
            self.no_space = True
        if not isinstance(error, InvalidKeyError):
            if self._failing != str(error):
                self._failing = str(error)
                log.warning("writing to the database failed: %s", error)
        elif isinstance(error, TooLargeError):
            log.warning("a write was refused as too large: %s", error)
        self._fail(group, error)

    async def _try(self, group: list[PendingWrite]) -> DriverError | None:
        """Commits the group and answers its requests; returns the error if the database refuses the group."""
        writes = [Write(tuple(request.plan.rows), request.plan.guarded) for request in group]
        self._observe(len(writes))
        index = self._index
        head = index.revision
        try:
            outcome = await self._driver.append(writes, head)
        except BehindError:
            self._again(group)
            await self._catch_up(group)
            return None
        except DriverError as error:
            return error
        except Exception as error:
            log.exception("committing a group of writes failed")
            self._fail(group, error)
            return None
        self._failing = ""
        rows: list[NewRow] = []
        ids: list[int] = []
        conflicts: list[PendingWrite] = []
        for request, its in zip(group, outcome, strict=True):
            if its is None:
                conflicts.append(request)
            elif isinstance(its, DriverError):
                self._failed([request], its)
            else:
                rows += request.plan.rows
                ids += its
        if self.no_space and not all(row.deleted for row in rows):
            self.no_space = False  # not after deletions alone, which may have used a reserve
        self._applier.committed(rows, ids)
        if ids and ids[0] <= head:
            await self._went_back()
        if ids and max(ids) > index.revision:
            # Certainly committed; only the answers wait for the rows of other writers that come before.
            try:
                await self._tailer.catch_up(max(ids))
            except Exception as error:
                log.warning("reading what others wrote failed: %s", error)
        # The next group, if any, is sent first: clients are answered while it is being committed.
        asyncio.get_running_loop().call_soon(self._tell, group, outcome, index.revision)
        if conflicts:
            self._again(conflicts)
            await self._catch_up(conflicts)
        return None

    @staticmethod
    def _tell(group: list[PendingWrite], outcome: Sequence[Outcome], applied: int) -> None:
        for request, its in zip(group, outcome, strict=True):
            if its is None or isinstance(its, DriverError):
                continue
            try:
                if its[-1] <= applied:
                    request.succeed(CommitOutcome(request.plan, its, its[0] - 1))
                else:
                    request.fail(TimedOutError())
            except Exception as error:
                log.exception("answering a write failed")
                request.fail(error)

    async def _went_back(self) -> None:
        """Reloads the index after a commit got an id that was given before: the database has gone back."""
        try:
            await self._tailer.rewind()
        except Exception as error:
            log.warning("loading the index anew failed: %s", error)

    async def _catch_up(self, group: list[PendingWrite]) -> None:
        try:
            head = self._index.revision
            newest = await self._driver.newest()
            if newest < head:
                await self._tailer.doubt()
            await self._tailer.catch_up(newest)
        except DriverError as error:
            self._fail(group, error)  # `_gather` passes over those that are queued again

    def _again(self, group: list[PendingWrite]) -> None:
        now = asyncio.get_running_loop().time()
        for request in reversed(group):
            if not request.until:
                request.until = now + _PATIENCE
            if now < request.until:
                request.wait()
                self._waiting.put_back(request.client, request)
            else:
                request.fail(TimedOutError())

    @staticmethod
    def _fail(group: list[PendingWrite], error: Exception) -> None:
        for request in group:
            request.fail(error)

    # ---- requests that end without a commit of their own

    def _decided(self, request: PendingWrite) -> bool:
        """Plans the request. False if it has no rows, and so is answered or set aside already.

        Without rows (a failed compare, nothing to delete, a refusal), the outcome is valid only if everything
        committed is applied to this index.
        """
        try:
            request.plan = request.decide()
        except MissingValuesError as missing:
            self._aside.start(self._fetch(request, missing.entries))
            return False
        except StoreError as error:
            outcome: CommitOutcome | StoreError = error
        except Exception as error:
            log.exception("planning a write failed")
            self._fail([request], error)
            return False
        else:
            if request.plan.rows:
                return True
            outcome = CommitOutcome(request.plan, (), self._index.revision)
        if self._freshness.revision_to_reach() is not None:
            self._aside.start(self._confirm(request))
        elif isinstance(outcome, CommitOutcome):
            request.succeed(outcome)
        else:
            request.fail(outcome)
        return False

    async def _confirm(self, request: PendingWrite) -> None:
        try:
            await self._freshness.refresh()
            request.plan = request.decide()
            if not request.plan.rows:
                request.succeed(CommitOutcome(request.plan, (), self._index.revision))
                return
        except MissingValuesError:
            pass
        except Exception as error:
            self._fail([request], error)
            return
        self._again([request])
        self._queue.wake()

    async def _fetch(self, request: PendingWrite, entries: list[Entry]) -> None:
        try:
            request.pinned = {**(request.pinned or {}), **await self._values.frames_there(entries)}
        except Exception as error:
            self._fail([request], error)
        else:
            self._again([request])
            self._queue.wake()


# Errors that one write may cause, and for which the others of its group must not fail.
_MAY_BE_OF_ONE = (InvalidKeyError, NoSpaceError, RefusedError)


def _halves(group: list[PendingWrite]) -> list[list[PendingWrite]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]]


def _size(request: PendingWrite) -> int:
    return sum(len(row.name) + len(row.value or b"") for row in request.plan.rows)


def _touches(ranges: list[tuple[bytes, bytes]], changing: set[bytes]) -> bool:
    return any(in_range(key, start, end) for start, end in ranges for key in changing)
