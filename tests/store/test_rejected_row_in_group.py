"""A write that the database rejects never fails the others of its group commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType

import pytest

from kine.drivers.base import (
    DriverError,
    NewRow,
    NoSpaceError,
    Outcome,
    RefusedError,
    TooLargeError,
    UnavailableError,
    Write,
)
from kine.drivers.memory import MemoryLog, _Rows
from kine.store.operations import Put, Txn
from kine.store.store import Store, StoreSettings

MEMBERS = 40


class Fussy(MemoryLog):
    """Rejects a whole group because of one of its writes."""

    refusals: Mapping[bytes, Exception] = MappingProxyType({})
    away = False
    room = 1 << 30  # bytes of one group
    attempts = 0

    async def append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        self.attempts += 1
        if self.away:
            raise UnavailableError("away")
        rows = [row for write in writes for row in write.rows]
        for row in rows:
            if row.value in self.refusals:
                raise self.refusals[row.value]
        if sum(len(row.value or b"") for row in rows) > self.room:
            raise NoSpaceError("full")
        return await super().append(writes, head)

    def check(self, row: NewRow) -> None:
        error = self.refusals.get(row.value or b"")
        if isinstance(error, TooLargeError):
            raise error


@pytest.fixture
async def log() -> AsyncIterator[Fussy]:
    log = Fussy(_Rows())
    yield log
    await log.close()


@pytest.fixture
async def store(log: Fussy) -> AsyncIterator[Store]:
    store = Store(log, StoreSettings())
    await store.open()
    yield store
    await store.close()


async def put_all(store: Store, values: dict[bytes, bytes]) -> dict[bytes, str]:
    """Puts all in one group; returns the errors by key."""

    async def put(key: bytes, value: bytes) -> str:
        try:
            await store.txn(Txn([], [Put(key, value)], [], alone=True))
        except DriverError as error:
            return type(error).__name__
        return ""

    outcomes = await asyncio.gather(*(put(key, value) for key, value in values.items()))
    return {key: outcome for key, outcome in zip(values, outcomes, strict=True) if outcome}


def many(**others: bytes) -> dict[bytes, bytes]:
    values = {b"/%02d" % number: b"plain" for number in range(MEMBERS)}
    return values | {b"/" + name.encode(): value for name, value in others.items()}


async def test_a_row_the_driver_knows_to_be_too_large(log: Fussy, store: Store) -> None:
    log.refusals = {b"large": TooLargeError("too large")}
    before = log.attempts
    assert await put_all(store, many(a=b"large", z=b"large")) == {
        b"/a": "TooLargeError",
        b"/z": "TooLargeError",
    }
    assert log.attempts - before == 2, "the others are one group again"
    assert len(store.index) == MEMBERS + 1


async def test_a_row_that_only_the_database_knows_to_be_wrong(log: Fussy, store: Store) -> None:
    log.refusals = {b"wrong": RefusedError("no")}
    assert await put_all(store, many(a=b"wrong")) == {b"/a": "RefusedError"}
    assert len(store.index) == MEMBERS + 1


async def test_what_fits_is_stored_where_one_does_not(log: Fussy, store: Store) -> None:
    log.room = 1000
    assert await put_all(store, many(a=b"x" * 1001)) == {b"/a": "NoSpaceError"}
    assert store.no_space


async def test_what_is_everybodys_fault_is_not_tried_with_each(log: Fussy, store: Store) -> None:
    log.refusals = {b"plain": RefusedError("no")}
    before = log.attempts
    assert len(await put_all(store, many())) == MEMBERS
    assert log.attempts - before < MEMBERS
    log.away, before = True, log.attempts
    assert len(await put_all(store, many())) == MEMBERS
    assert log.attempts - before == 1
