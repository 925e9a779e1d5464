"""Leases of two instances on one database: the one is expiring what the other renews."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kine.drivers.base import Log, Options
from kine.drivers.memory import connect
from kine.store.expiry import Leases
from kine.store.index import Index
from kine.store.ops import LeaseNotFoundError
from kine.store.request import Done, Planner
from kine.turns import Turns


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

    def submit(self, planner: Planner) -> asyncio.Future[Done]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(Done(planner({}), (), 0))
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
    expiring = Leases(log, Index(), held.submit, held.refresh, Turns())
    other = Leases(log, Index(), held.submit, held.refresh, Turns())
    lease = await expiring.grant(2)
    async with running(expiring):
        await other.find(lease.id)
        await asyncio.wait_for(held.asked.wait(), 60)

        with pytest.raises(LeaseNotFoundError):
            await other.renew(lease.id)


async def test_a_lease_renewed_elsewhere_does_not_expire(log: Log) -> None:
    held = Held()
    granting = Leases(log, Index(), held.submit, held.refresh, Turns())
    other = Leases(log, Index(), held.submit, held.refresh, Turns())
    lease = await granting.grant(2)
    async with running(granting):
        await other.renew(lease.id)
        deadline = lease.deadline
        while lease.deadline == deadline:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)

        assert not held.asked.is_set()
        assert (await log.lease(lease.id)) == (lease.id, 2, 1)


async def test_a_lease_that_another_instance_was_expiring_is_expired_at_the_start(log: Log) -> None:
    await log.grant(5, 3600)
    assert await log.expire(5, 0)
    held = Held()
    held.go_on.set()
    leases = Leases(log, Index(), held.submit, held.refresh, Turns())

    await leases.load()
    async with running(leases):
        while await log.lease(5) is not None:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
