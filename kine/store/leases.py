"""Leases: granting, keep-alive, and expiry exactly once however many instances there are.

A lease is a record in the database: id, TTL and a number that grows with its renewals, see
`kine.store.renewal_counter`. No wall clock decides when it ends: each instance runs its own clock from when
it saw the record, or that number, change. Not every renewal is recorded, so an instance that only knows the
record gives the lease a margin: the instance that answered the client's grant or renewal expires it first,
exactly at its deadline.

Expiry marks the record as ended, on condition that the lease was not renewed since: of a concurrent renewal
and expiry, the later one fails. Then the lease's keys are deleted, and the record last. If the expiring
instance dies before that, another instance does it when the lease is due there. Keys are deleted through
the writer, so each key is deleted by one instance only, and only while it still holds that lease.

A row written by Go kine has a TTL and no lease: its key expires alone, one TTL after the row was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from time import monotonic  # the event loop's own clock stands still for milliseconds
from typing import TYPE_CHECKING, Protocol

from kine.background_tasks import BackgroundTasks
from kine.drivers.base import UNFINISHED, DriverError, Log, NewRow
from kine.fair_queue import FairSemaphore
from kine.store import renewal_counter
from kine.store.errors import (
    LeaseExistsError,
    LeaseNotFoundError,
    StoreError,
    TooManyLeasesError,
)
from kine.store.reserved_key_translation import name_of
from kine.store.shared_queries import SharedQueries
from kine.store.sliced_sort import sorted_in_turns
from kine.store.txn_plan import DecidedTxn

if TYPE_CHECKING:
    from kine.drivers.base import LeaseRecord as Record
    from kine.drivers.base import Row
    from kine.fair_queue import FairTurns
    from kine.store.index import Entry, Index
    from kine.store.pending_write import CommitOutcome, Frames, Planner

log = logging.getLogger(__name__)

MIN_TTL = 2  # seconds: etcd's, with its default election timeout
MAX_TTL = 9_000_000_000  # etcd's
_RENEW_EVERY = 0.25  # of the TTL at most: how long a renewal may stay unrecorded in the database
_RECOUNT = 2.0  # seconds, at least, between two counts of the lease records
_PAST = 4096  # ended leases that are remembered
_AT_ONCE = 256  # keys of one lease
_EXPIRING = 16  # leases, and keys with a TTL of their own, that are expired at once
_LOOKED_AT = 1_000  # due entries looked at in one turn of the event loop
_LISTED = 10_000  # records looked at in one turn of the event loop
_MARGIN = 1.0  # additional seconds, for a renewal that is being recorded
_RETRY = 1.0  # seconds, when the database does not answer


@dataclass(slots=True)
class Lease:
    id: int
    ttl: int
    renewals: int | None  # the record's number when the deadline was set; None: the record was not read yet
    deadline: float  # by `monotonic`
    keys: set[bytes] = field(default_factory=set)
    recorded: float = -math.inf  # when this instance last recorded a renewal
    unrecorded: float = 0.0  # seconds from then to its last renewal
    mine: bool = False  # granted by this instance
    ended: bool = False  # for good: its keys are deleted, or about to be
    gone: bool = False  # not in the database any more, where another lease may have its id by now
    finishing: asyncio.Task[None] | None = None  # deletes its keys and record, once started


class SubmitWrite(Protocol):
    def __call__(self, planner: Planner) -> asyncio.Future[CommitOutcome]: ...


class Leases:
    def __init__(
        self,
        driver: Log,
        index: Index,
        submit: SubmitWrite,
        refresh: Callable[[], Awaitable[None]],
        turns: FairTurns,
        *,
        most: int = 0,
        processes: int = 1,
    ) -> None:
        """Each of the `processes` that share `most` may grant its part, whatever the others have granted."""
        self._driver = driver
        self._records = SharedQueries(driver.lease)
        self._index = index
        self._submit = submit
        self._refresh = refresh  # applies what others have committed
        self._turns = turns
        self._most = most  # leases, including those known of other instances; 0: no limit
        self._part = -(-most // processes)
        self._granting = 0  # leases whose record is being written
        self._mine = 0  # how many of `_leases` this instance granted
        self._granted = 0  # the number in the record of the last lease this instance granted
        self._counted = 0.0  # when the records were counted last; 0: never
        self._leases: dict[int, Lease] = {}
        self._past: dict[int, None] = {}  # ids of the leases that this instance ended last
        self._ends = 0  # how many leases this instance has ended
        self._orphans: dict[bytes, int] = {}  # keys with a TTL of their own, and the revision that set it
        # (deadline, lease id, key, revision): an entry whose deadline has moved is pushed again when due
        self._due: list[tuple[float, int, bytes, int]] = []
        self._wake = asyncio.Event()
        self._expiring = FairSemaphore(_EXPIRING)
        self._work = BackgroundTasks()

    # ---- leases in rows

    def seen(self, row: Row, entry: Entry) -> None:
        """Called when a row is applied: from now on its key holds its lease, and no other."""
        key = entry.key
        below = entry.below
        if below is not None and below.lease and below.lease != entry.lease:
            former = self._leases.get(below.lease)
            if former is not None:
                former.keys.discard(key)
        self._orphans.pop(key, None)
        if not entry.version:
            if below is not None and below.lease and below.lease in self._leases:
                self._leases[below.lease].keys.discard(key)
            return
        if row.lease:
            lease = self._leases.get(row.lease)
            if lease is None:  # granted by another instance: its record is read when it seems due
                lease = self._add(row.lease, row.ttl, None)
                if row.lease in self._past:  # another instance took the put while the lease ended here
                    lease.gone = True
                    self._end(lease)
            lease.keys.add(key)
        elif row.ttl > 0:
            self._orphans[key] = entry.mod
            self._push(monotonic() + row.ttl, 0, key, entry.mod)

    async def load(self) -> None:
        """Reads the lease records, once at start: each gets its full TTL, as after an etcd election."""
        for record in await self._driver.leases():
            lease = self._leases.get(record.id)
            if lease is None:
                self._add(record.id, record.ttl, record.renewals)
            else:
                lease.ttl, lease.renewals = record.ttl, record.renewals
            if record.renewals < 0:  # being ended, by an instance that has died since or is still at it
                self._end(self._leases[record.id])

    # ---- client requests

    def ttl_of(self, lease_id: int) -> int:
        """Returns the lease's TTL in seconds. Raises LeaseNotFoundError."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.ended:
            raise LeaseNotFoundError
        return lease.ttl

    async def find(self, lease_id: int) -> Lease:
        """Returns the lease, if the database has it now: another instance may have granted or revoked it.

        Raises LeaseNotFoundError, DriverError.
        """
        lease, _ = await self._look(lease_id)
        return lease

    async def _look(self, lease_id: int) -> tuple[Lease, Record]:
        while True:
            ends = self._ends
            record = await self._records.answer(lease_id)
            lease = self._leases.get(lease_id)
            if lease is not None or ends == self._ends:
                break
            # A lease has ended here meanwhile; if it is this one, the record may have been read before that.
        if record is None or record.renewals < 0:
            if lease is not None and not lease.ended:
                lease.gone = record is None
                self._end(lease)
            raise LeaseNotFoundError
        if lease is None:
            lease = self._add(record.id, record.ttl, record.renewals)
            self._past.pop(lease_id, None)
        if lease.ended:
            raise LeaseNotFoundError
        lease.ttl = record.ttl
        return lease, record

    async def grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """Grants a lease of `ttl` seconds, at least `MIN_TTL`; `lease_id` 0 asks for a random id.

        Raises LeaseExistsError, TooManyLeasesError, DriverError.
        """
        ttl = max(ttl, MIN_TTL)
        if lease_id == UNFINISHED:
            raise LeaseExistsError
        if (former := self._leases.get(lease_id)) is not None:
            with contextlib.suppress(LeaseNotFoundError):
                await self.find(lease_id)
                raise LeaseExistsError
            if former.gone:
                await self._finish(former)
        if self._most and self._spent():
            await self._recount()
            if self._spent():
                raise TooManyLeasesError
        self._granting += 1
        try:
            while True:
                wanted = lease_id or secrets.randbits(63) or 1
                number = self._granted = renewal_counter.granted(after=self._granted)
                if wanted not in self._leases and await self._driver.grant(wanted, ttl, number):
                    self._past.pop(wanted, None)
                    lease = self._add(wanted, ttl, number, margin=0.0)
                    lease.mine = True
                    self._mine += 1
                    return lease
                if lease_id:
                    raise LeaseExistsError
        finally:
            self._granting -= 1

    async def _recount(self) -> None:
        """Forgets leases that other instances revoked unnoticed by this one. Raises DriverError."""
        if self._counted and monotonic() - self._counted < _RECOUNT:
            return
        self._counted = monotonic()
        known = tuple(self._leases)  # leases granted during the query may not be in its result
        there = {record.id for record in await self._driver.leases() if record.renewals >= 0}
        for lease_id in known:
            lease = self._leases.get(lease_id)
            if lease is not None and not lease.ended and lease_id not in there:
                lease.gone = True
                self._end(lease)

    def _spent(self) -> bool:
        """Whether the limit is reached. Leases of other processes are known here only by their keys."""
        known = len(self._leases) + self._granting
        if known >= self._most:
            return True
        if known < self._part or self._part == self._most:
            return False
        return self._mine + self._granting >= self._part

    def __len__(self) -> int:
        return len(self._leases)

    async def renew(self, lease_id: int) -> Lease:
        """Restarts the lease's TTL. Raises LeaseNotFoundError, DriverError."""
        lease = self._leases.get(lease_id) or await self.find(lease_id)
        if lease.ended:
            raise LeaseNotFoundError
        now = monotonic()
        if lease.deadline < now:
            raise LeaseNotFoundError  # too late: its expiry is under way
        if lease.deadline > now + lease.ttl:  # it had a margin, which this renewal ends
            self._push(now + lease.ttl, lease.id)
        lease.deadline = now + lease.ttl
        if now - lease.recorded > lease.ttl * _RENEW_EVERY:
            await self._record(lease, lease.renewals or 0, now)
        lease.unrecorded = now - lease.recorded
        lease, record = await self._look(lease_id)  # another instance may have revoked or expired it
        if record.renewals != lease.renewals:  # renewed elsewhere too, where it could be expired: overwrite
            await self._record(lease, record.renewals, now)
            lease, _ = await self._look(lease_id)
        return lease

    async def _record(self, lease: Lease, before: int, now: float) -> None:
        number = renewal_counter.renewed(before)
        await self._driver.renew([lease.id], number)
        lease.renewals = number
        lease.recorded, lease.unrecorded = now, 0.0

    async def revoke(self, lease_id: int) -> None:
        """Deletes the lease's keys, then the lease. Raises LeaseNotFoundError."""
        lease = await self.find(lease_id)
        try:
            await self._finish(lease)
        except BaseException:
            self._end(lease)  # the revocation continues without this client
            raise

    def keys(self, lease_id: int) -> tuple[bytes, ...]:
        """Keys of a lease that `find` has returned; none if it has ended since."""
        lease = self._leases.get(lease_id)
        return () if lease is None else tuple(lease.keys)

    def remaining(self, lease: Lease) -> float:
        return min(lease.ttl, max(0.0, lease.deadline - monotonic()))

    async def all(self) -> list[int]:
        """Returns the ids of all instances' leases, soonest to expire first as in etcd. Raises DriverError.

        The order follows the records: an instance's own clock does not cover what others granted or renewed.
        """
        found = []
        for count, record in enumerate(await self._driver.leases(), 1):
            if not count % _LISTED:
                await self._turns.next(self)
            lease = self._leases.get(record.id)
            if record.renewals < 0 or (lease is not None and lease.ended):
                continue
            ends = renewal_counter.seconds(record.renewals) + record.ttl
            if lease is not None and lease.renewals == record.renewals:
                ends += lease.unrecorded
            found.append((ends, record.id))
        return [lease_id for _, lease_id in sorted(found)]

    # ---- expiry

    async def run(self) -> None:
        while True:
            self._wake.clear()
            now = monotonic()
            looked_at = 0
            while self._due and self._due[0][0] <= now:
                _, lease_id, key, revision = heapq.heappop(self._due)
                if lease_id:
                    await self._lease_due(lease_id, now)
                elif self._orphans.get(key) == revision:
                    await self._begin(partial(self._expire_orphan, key, revision))
                looked_at += 1
                if not looked_at % _LOOKED_AT:
                    await self._turns.next(self)
            delay = self._due[0][0] - now if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    async def _lease_due(self, lease_id: int, now: float) -> None:
        lease = self._leases.get(lease_id)
        if lease is None:
            return
        if lease.deadline > now:
            self._push(lease.deadline, lease_id)
        else:
            await self._begin(partial(self._expire, lease))

    async def _begin(self, expire: Callable[[], Coroutine[None, None, None]]) -> None:
        """Starts an expiry when a slot is free: tens of thousands due at once would hold up all writes."""
        await self._expiring.acquire()
        self._work.start(self._in_its_place(expire))

    async def _in_its_place(self, expire: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await expire()
        finally:
            self._expiring.release()

    async def _expire(self, lease: Lease) -> None:
        try:
            while not lease.gone:
                if lease.renewals is not None and await self._driver.expire(lease.id, lease.renewals):
                    break
                record = await self._driver.lease(lease.id)
                if record is None or record.renewals < 0:
                    break
                if lease.renewals is not None or not renewal_counter.never_renewed(record.renewals):
                    self._renewed_elsewhere(lease, record)
                    return
                lease.renewals = record.renewals
            await self._finish(lease)
        except Exception as error:
            self._try_again("a lease", error, lease.id)

    def _renewed_elsewhere(self, lease: Lease, record: Record) -> None:
        lease.ttl, lease.renewals, lease.ended = record.ttl, record.renewals, False
        lease.unrecorded = 0.0
        lease.deadline = monotonic() + record.ttl + _margin(record.ttl)
        self._push(lease.deadline, lease.id)

    def _end(self, lease: Lease) -> None:
        """Marks a lease whose record has ended as due now, so that its remaining keys are deleted."""
        lease.ended = True
        lease.deadline = monotonic()
        self._push(lease.deadline, lease.id)

    async def _expire_orphan(self, key: bytes, revision: int) -> None:
        def planner(_: Frames) -> DecidedTxn:
            entry = self._index.live(key)
            return _deletion([entry] if entry is not None and entry.mod == revision else [])

        try:
            await self._submit(planner)
        except Exception as error:
            self._try_again("a key", error, 0, key, revision)
        else:
            self._orphans.pop(key, None)

    async def _finish(self, lease: Lease) -> None:
        """Ends a lease: deletes its keys, then its record. Raises DriverError, StoreError.

        Runs once, shared by all callers: a second run, continuing after the id was granted again, would
        delete the new lease's keys.
        """
        task = lease.finishing
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = lease.finishing = self._work.start(self._finish_once(lease))
            task.add_done_callback(_seen)
        await asyncio.shield(task)

    async def _finish_once(self, lease: Lease) -> None:
        lease.ended = True  # it accepts no more puts
        await self._refresh()  # another instance may just have attached keys to it
        await self._submit(
            lambda _: DecidedTxn()
        )  # a put that was accepted before the end is applied by then
        await self._delete_keys(lease)
        if not lease.gone:
            await self._driver.forget(lease.id)
        await self._delete_keys(lease)  # keys that others attached meanwhile
        if self._leases.get(lease.id) is lease:
            del self._leases[lease.id]
            self._mine -= lease.mine
        self._ends += 1
        self._past[lease.id] = None
        if len(self._past) > _PAST:
            del self._past[next(iter(self._past))]

    async def _delete_keys(self, lease: Lease) -> None:
        """Deletes each key in a write of its own: atomicity is not needed, nor possible on every database."""

        def planner_of(key: bytes) -> Planner:
            def planner(_: Frames) -> DecidedTxn:
                entry = self._index.live(key)
                return _deletion([entry] if entry is not None and entry.lease == lease.id else [])

            return planner

        deleted = True
        while lease.keys and deleted:
            deleted = False
            keys = await sorted_in_turns(
                tuple(lease.keys), bytes, len, partial(self._turns.next, self), reverse=False
            )
            for start in range(0, len(keys), _AT_ONCE):
                block = keys[start : start + _AT_ONCE]
                done = await asyncio.gather(*(self._submit(planner_of(key)) for key in block))
                deleted = deleted or any(one.ids for one in done)

    def _try_again(
        self, what: str, error: Exception, lease_id: int, key: bytes = b"", revision: int = 0
    ) -> None:
        if isinstance(error, (DriverError, StoreError)):
            log.warning("%s could not be expired yet, trying again: %s", what, error or type(error).__name__)
        else:  # an expiry is never given up
            log.error("%s could not be expired, trying again", what, exc_info=error)
        self._push(monotonic() + _RETRY, lease_id, key, revision)

    # ---- bookkeeping

    def _add(self, lease_id: int, ttl: int, number: int | None, *, margin: float | None = None) -> Lease:
        deadline = monotonic() + ttl + (_margin(ttl) if margin is None else margin)
        lease = self._leases[lease_id] = Lease(lease_id, ttl, number, deadline)
        self._push(deadline, lease_id)
        return lease

    def _push(self, deadline: float, lease_id: int, key: bytes = b"", revision: int = 0) -> None:
        heapq.heappush(self._due, (deadline, lease_id, key, revision))
        if self._due[0][0] == deadline:
            self._wake.set()


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # marks it as retrieved: it is raised where the task is awaited, if it still is


def _margin(ttl: int) -> float:
    return ttl * _RENEW_EVERY + _MARGIN


def _deletion(entries: list[Entry]) -> DecidedTxn:
    plan = DecidedTxn()
    for entry in entries:
        plan.keys.add(entry.key)
        plan.rows.append(NewRow(name_of(entry.key), False, True, 0, entry.mod, 0, None, 0))
    return plan
