"""Leases: granted, kept alive, and expired exactly once however many instances there are.

A lease is a record in the database: id, TTL and a count of its renewals. No wall clock is involved: each
instance runs its own clock from when it saw the record, or its count of renewals, change. Not every
renewal is recorded, so one that only knows the record gives the lease a margin: the instance that told the
client its TTL expires it first, and to the moment. To expire a lease is to end its record, on the condition
that nobody has renewed it since: of a renewal and an expiry at one moment, one finds that the other came
before. Then its keys go, and the record last: should whoever has ended it not live to do that, another
instance does, when it is due there. Keys are deleted through the writer, so each key is deleted by one
instance only, and only while it still holds that lease.

A row that Go kine wrote has a TTL and no lease: its key expires by itself, that long after it was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kine.drivers.base import DriverError, Log, NewRow
from kine.store.keys import name_of
from kine.store.ops import LeaseExistsError, LeaseNotFoundError, StoreError
from kine.store.plan import Plan

if TYPE_CHECKING:
    from kine.drivers.base import Lease as Record
    from kine.drivers.base import Row
    from kine.store.index import Entry, Index
    from kine.store.request import Done, Frames, Planner

log = logging.getLogger(__name__)

MIN_TTL = 2  # seconds: etcd's, with its default election timeout
MAX_TTL = 9_000_000_000  # etcd's
_RENEW_EVERY = 0.25  # of the TTL at most: how long a renewal may be known to this instance alone
_AT_ONCE = 256  # keys of one lease
_MARGIN = 1.0  # seconds besides, for a renewal that is being recorded
_RETRY = 1.0  # seconds, when the database does not answer


@dataclass(slots=True)
class Lease:
    id: int
    ttl: int
    renewals: int
    deadline: float  # event-loop time
    keys: set[bytes] = field(default_factory=set)
    recorded: float = 0.0  # when its last renewal was written down
    ended: bool = False  # for good: its keys are about to go, if they have not


class Submit(Protocol):
    def __call__(self, planner: Planner) -> asyncio.Future[Done]: ...


class Leases:
    def __init__(
        self, driver: Log, index: Index, submit: Submit, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._driver = driver
        self._index = index
        self._submit = submit
        self._refresh = refresh  # applies what others have committed
        self._leases: dict[int, Lease] = {}
        self._orphans: dict[bytes, int] = {}  # keys with a TTL of their own, and the revision that set it
        # (deadline, lease id, key, revision): entries whose time has moved are put back when it comes
        self._due: list[tuple[float, int, bytes, int]] = []
        self._wake = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()

    # ---- what rows say

    def seen(self, row: Row, entry: Entry) -> None:
        """A row has been applied: its key holds its lease from now on, and no other."""
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
                lease = self._add(row.lease, row.ttl, 0)
            lease.keys.add(key)
        elif row.ttl > 0:
            self._orphans[key] = entry.mod
            self._push(asyncio.get_running_loop().time() + row.ttl, 0, key, entry.mod)

    async def load(self) -> None:
        """Records of leases, once at start: each has its whole TTL again, as after an etcd election."""
        for record in await self._driver.leases():
            lease = self._leases.get(record.id)
            if lease is None:
                self._add(record.id, record.ttl, record.renewals)
            else:
                lease.ttl, lease.renewals = record.ttl, record.renewals
            if record.renewals < 0:  # its end was begun, by an instance that has gone since or is at it
                self._end(self._leases[record.id])

    # ---- what clients ask

    def ttl_of(self, lease_id: int) -> int:
        """Raises LeaseNotFoundError."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.ended:
            raise LeaseNotFoundError
        return lease.ttl

    def known(self, lease_id: int) -> bool:
        return lease_id in self._leases

    async def find(self, lease_id: int) -> Lease:
        """The lease, from the database if another instance granted it. Raises LeaseNotFoundError."""
        lease = self._leases.get(lease_id)
        if lease is None:
            record = await self._driver.lease(lease_id)
            if record is None or record.renewals < 0:
                raise LeaseNotFoundError
            lease = self._leases.get(lease_id) or self._add(record.id, record.ttl, record.renewals)
        if lease.ended:
            raise LeaseNotFoundError
        return lease

    async def grant(self, ttl: int, lease_id: int = 0) -> Lease:
        """Raises LeaseExistsError."""
        ttl = max(ttl, MIN_TTL)
        while True:
            wanted = lease_id or secrets.randbits(63) or 1
            if wanted not in self._leases and await self._driver.grant(wanted, ttl):
                return self._add(wanted, ttl, 0, margin=0.0)
            if lease_id:
                raise LeaseExistsError

    async def renew(self, lease_id: int) -> Lease:
        """Raises LeaseNotFoundError."""
        lease = await self.find(lease_id)
        now = asyncio.get_running_loop().time()
        if lease.deadline < now:
            raise LeaseNotFoundError  # too late: its expiry is under way
        if lease.deadline > now + lease.ttl:  # it had a margin, which this answer ends
            self._push(now + lease.ttl, lease.id)
        lease.deadline = now + lease.ttl
        if now - lease.recorded > lease.ttl * _RENEW_EVERY:
            await self._driver.renew([lease.id])
            lease.recorded = now
            lease.renewals += 1
            record = await self._driver.lease(lease.id)
            if record is None or record.renewals < 0:  # another instance has revoked or expired it
                self._end(lease)
                raise LeaseNotFoundError
        return lease

    async def revoke(self, lease_id: int) -> None:
        """Deletes the lease's keys, then the lease. Raises LeaseNotFoundError."""
        lease = await self.find(lease_id)
        try:
            await self._finish(lease)
        except BaseException:
            self._end(lease)  # what has begun goes on without this client
            raise

    def remaining(self, lease: Lease) -> float:
        return min(lease.ttl, max(0.0, lease.deadline - asyncio.get_running_loop().time()))

    async def all(self) -> list[int]:
        """The ids, other instances' too. Soonest to expire first, as etcd lists them. Raises DriverError."""
        deadlines = {}
        for record in await self._driver.leases():
            lease = self._leases.get(record.id)
            if record.renewals >= 0 and not (lease is not None and lease.ended):
                unknown = asyncio.get_running_loop().time() + record.ttl
                deadlines[record.id] = unknown if lease is None else lease.deadline
        return sorted(deadlines, key=deadlines.__getitem__)

    # ---- expiry

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            while self._due and self._due[0][0] <= now:
                _, lease_id, key, revision = heapq.heappop(self._due)
                if lease_id:
                    self._lease_due(lease_id, now)
                elif self._orphans.get(key) == revision:
                    self._start(self._expire_orphan(key, revision))
            delay = self._due[0][0] - now if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    def _lease_due(self, lease_id: int, now: float) -> None:
        lease = self._leases.get(lease_id)
        if lease is None:
            return
        if lease.deadline > now:
            self._push(lease.deadline, lease_id)
        else:
            self._start(self._expire(lease))

    async def _expire(self, lease: Lease) -> None:
        try:
            while not await self._driver.expire(lease.id, lease.renewals):
                record = await self._driver.lease(lease.id)
                if record is not None and record.renewals >= 0:
                    self._renewed_elsewhere(lease, record)
                    return
            await self._finish(lease)
        except Exception as error:
            self._try_again("a lease", error, lease.id)

    def _renewed_elsewhere(self, lease: Lease, record: Record) -> None:
        lease.ttl, lease.renewals, lease.ended = record.ttl, record.renewals, False
        lease.deadline = asyncio.get_running_loop().time() + record.ttl + _margin(record.ttl)
        self._push(lease.deadline, lease.id)

    def _end(self, lease: Lease) -> None:
        """Its record says so; should it hold keys yet, they go now."""
        lease.ended = True
        lease.deadline = asyncio.get_running_loop().time()
        self._push(lease.deadline, lease.id)

    async def _expire_orphan(self, key: bytes, revision: int) -> None:
        def planner(_: Frames) -> Plan:
            entry = self._index.live(key)
            return _deletion([entry] if entry is not None and entry.mod == revision else [])

        try:
            await self._submit(planner)
        except Exception as error:
            self._try_again("a key", error, 0, key, revision)
        else:
            self._orphans.pop(key, None)

    async def _finish(self, lease: Lease) -> None:
        """Ends a lease: deletes its keys, then its record. Raises DriverError, StoreError."""
        lease.ended = True  # it takes no more puts
        await self._refresh()  # another instance may just have given it keys
        await self._submit(lambda _: Plan())  # a put that was accepted before the end is applied by then
        await self._delete_keys(lease)
        await self._driver.forget(lease.id)
        await self._delete_keys(lease)  # what others gave it meanwhile
        self._leases.pop(lease.id, None)

    async def _delete_keys(self, lease: Lease) -> None:
        """Each by itself: they need not go at one moment, and not every database could do that."""

        def planner_of(key: bytes) -> Planner:
            def planner(_: Frames) -> Plan:
                entry = self._index.live(key)
                return _deletion([entry] if entry is not None and entry.lease == lease.id else [])

            return planner

        while lease.keys:
            keys = sorted(lease.keys)[:_AT_ONCE]
            done = await asyncio.gather(*(self._submit(planner_of(key)) for key in keys))
            if not any(one.ids for one in done):
                break

    def _try_again(
        self, what: str, error: Exception, lease_id: int, key: bytes = b"", revision: int = 0
    ) -> None:
        if isinstance(error, (DriverError, StoreError)):
            log.warning("%s could not be expired yet, trying again: %s", what, error or type(error).__name__)
        else:  # none may stay for good
            log.error("%s could not be expired, trying again", what, exc_info=error)
        self._push(asyncio.get_running_loop().time() + _RETRY, lease_id, key, revision)

    # ---- bookkeeping

    def _add(self, lease_id: int, ttl: int, renewals: int, *, margin: float | None = None) -> Lease:
        deadline = asyncio.get_running_loop().time() + ttl + (_margin(ttl) if margin is None else margin)
        lease = self._leases[lease_id] = Lease(lease_id, ttl, renewals, deadline)
        self._push(deadline, lease_id)
        return lease

    def _push(self, deadline: float, lease_id: int, key: bytes = b"", revision: int = 0) -> None:
        heapq.heappush(self._due, (deadline, lease_id, key, revision))
        if self._due[0][0] == deadline:
            self._wake.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


def _margin(ttl: int) -> float:
    return ttl * _RENEW_EVERY + _MARGIN


def _deletion(entries: list[Entry]) -> Plan:
    plan = Plan()
    for entry in entries:
        plan.keys.add(entry.key)
        plan.rows.append(NewRow(name_of(entry.key), False, True, 0, entry.mod, 0, None, 0))
    return plan
