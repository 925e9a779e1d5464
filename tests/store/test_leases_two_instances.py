"""Leases of two instances on one database: one expires what the other renews."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kine.drivers.base import Log, Options, Row
from kine.drivers.memory import MemoryLog, _Rows, connect
from kine.fair_queue import FairTurns
from kine.proto import rpc_pb2 as pb
from kine.store import leases as lease_module
from kine.store.errors import LeaseNotFoundError
from kine.store.index import Entry, Index
from kine.store.leases import Lease, Leases
from kine.store.pending_write import CommitOutcome, Planner
from tests import in_process_server
from tests.in_process_server import until


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    log = connect("memory://", Options())
    await log.open()
    yield log
    await log.close()


class Held:
    """A store that is about to delete a lease's keys, of which there are none."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def refresh(self) -> None:
        self.asked.set()
        await self.go_on.wait()

    def submit(self, planner: Planner) -> asyncio.Future[CommitOutcome]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(CommitOutcome(planner({}), (), 0))
        return done


@asynccontextmanager
async def running(leases: Leases) -> AsyncIterator[None]:
    task = asyncio.create_task(leases.run())
    try:
        yield
    finally:
        task.cancel()


async def test_a_lease_that_expires_on_one_instance_is_renewed_on_none(log: Log) -> None:
    held = Held()
    expiring = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    other = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    lease = await expiring.grant(2)
    async with running(expiring):
        await other.find(lease.id)
        await asyncio.wait_for(held.asked.wait(), 60)

        with pytest.raises(LeaseNotFoundError):
            await other.renew(lease.id)


async def test_a_lease_renewed_elsewhere_does_not_expire(log: Log) -> None:
    held = Held()
    granting = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    other = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    lease = await granting.grant(2)
    async with running(granting):
        await other.renew(lease.id)
        record = await log.lease(lease.id)
        deadline = lease.deadline
        while lease.deadline == deadline:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)

        assert not held.asked.is_set()
        assert await log.lease(lease.id) == record


def put_under(leases: Leases, lease: Lease) -> None:
    """Applies another instance's put under a lease, which is all that this one learns of the lease."""
    leases.seen(
        Row(1, b"/a", True, False, 1, 0, lease.ttl, None, lease.id, 0), Entry(b"/a", 1, 1, 1, lease.id, None)
    )


async def test_a_lease_known_by_its_key_ends_when_it_is_due_though_whoever_granted_it_has_gone(
    log: Log,
) -> None:
    held = Held()
    lease = await Leases(log, Index(), held.submit, held.refresh, FairTurns()).grant(2)
    other = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    put_under(other, lease)
    known = await other.find(lease.id)
    deadline = known.deadline
    async with running(other):
        await asyncio.wait_for(held.asked.wait(), 60)

    assert known.deadline == deadline


async def test_a_lease_known_by_its_key_lives_on_when_whoever_granted_it_renews_it(log: Log) -> None:
    held = Held()
    granting = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    other = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    lease = await granting.grant(2)
    put_under(other, lease)
    known = await other.find(lease.id)
    await granting.renew(lease.id)
    deadline = known.deadline
    async with running(other):
        while known.deadline == deadline:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)

        assert not held.asked.is_set()


async def test_renewals_in_turn_on_two_instances_are_all_recorded(log: Log) -> None:
    """Each instance takes account of the recorded renewals and of those it has made itself."""
    held = Held()
    one = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    other = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    lease = await one.grant(3600)
    for leases in (other, one, other, one):
        before = await log.lease(lease.id)
        await leases.renew(lease.id)

        assert before is not None
        assert not await log.expire(lease.id, before.renewals)


async def test_a_clock_that_is_set_back_or_far_ahead_records_each_renewal(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    leases = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    numbers = []
    for year in (2026, -100, 1960, 9000, 2026):
        monkeypatch.setattr("time.time_ns", lambda year=year: (year - 1970) * 31_556_952 * 10**9)
        lease = await leases.grant(3600)
        numbers.append(lease.renewals)
        for _ in range(2):
            before = await log.lease(lease.id)
            assert before is not None
            await Leases(log, Index(), held.submit, held.refresh, FairTurns()).renew(lease.id)
            after = await log.lease(lease.id)
            assert after is not None
            assert before.renewals < after.renewals < 1 << 63
    assert numbers == sorted(numbers)


async def test_a_lease_that_another_instance_was_expiring_is_expired_at_the_start(log: Log) -> None:
    await log.grant(5, 3600)
    assert await log.expire(5, 0)
    held = Held()
    held.go_on.set()
    leases = Leases(log, Index(), held.submit, held.refresh, FairTurns())

    await leases.load()
    async with running(leases):
        while await log.lease(5) is not None:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


class Expiring(MemoryLog):
    """Continues with the expiry of leases when the test says; counts those it has started."""

    def __init__(self) -> None:
        super().__init__(_Rows())
        self.begun = 0
        self.go_on = asyncio.Event()

    async def expire(self, lease_id: int, renewals: int) -> bool:
        self.begun += 1
        await self.go_on.wait()
        return await super().expire(lease_id, renewals)


async def test_leases_that_are_due_at_once_expire_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "MIN_TTL", 0)
    log = Expiring()
    await log.open()
    held = Held()
    held.go_on.set()
    leases = Leases(log, Index(), held.submit, held.refresh, FairTurns())
    for _ in range(200):
        await leases.grant(0)
    async with running(leases):
        await until(lambda: log.begun > 0)
        for _ in range(1_000):
            await asyncio.sleep(0)
        begun = log.begun
        log.go_on.set()
        await until(lambda: len(leases) == 0)
    await log.close()

    assert begun <= 16
    assert log.begun == 200


class Counted(set[bytes]):
    """Counts how many of its items were iterated over in all."""

    looked_at = 0

    def __iter__(self) -> Iterator[bytes]:
        for item in super().__iter__():
            self.looked_at += 1
            yield item


async def test_keys_of_a_lease_are_looked_at_once_to_be_deleted() -> None:
    number = 3_000
    async with in_process_server.running(in_process_server.new_memory()) as instance:
        granted = await instance.call(pb.LeaseGrantRequest(TTL=60))
        for start in range(0, number, 100):
            puts = [
                pb.PutRequest(key=b"/l/%d" % each, lease=granted.ID) for each in range(start, start + 100)
            ]
            await instance.call(pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts]))
        lease = await instance.store.leases.find(granted.ID)
        lease.keys = counted = Counted(lease.keys)
        counted.looked_at = 0
        await instance.call(pb.LeaseRevokeRequest(ID=granted.ID))
        left = await instance.get(b"/l/", range_end=b"/l0")

    assert left.count == 0
    assert counted.looked_at <= 2 * number
