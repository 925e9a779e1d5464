"""Responses over the size limit are refused before they are fully read, as are those of a gone client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from kine.store.errors import AnswerTooLargeError
from kine.store.operations import Range, RangeResult, SortOrder
from tests.store.test_range_cache import World, loaded

ALL = Range(b"k/", b"k0")


def read(world: World, op: Range, most: int) -> None:
    async def ranged() -> None:
        revision = world.index.revision
        found = world.reads.range(op, revision, revision, most)
        assert isinstance(found if isinstance(found, RangeResult) else await found, RangeResult)

    asyncio.run(ranged())


@pytest.mark.parametrize("keys", [1_000, 9_000])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("op", [ALL, Range(b"k/", b"k0", order=SortOrder.DESCEND)], ids=["list", "sorted"])
def test_answer_of_more_bytes_than_one_may_take(keys: int, cached: bool, op: Range) -> None:
    world = loaded(keys, 1_000)
    if not cached:
        world.values.clear()
    with pytest.raises(AnswerTooLargeError, match="ask for fewer keys at once"):
        read(world, op, keys * 1_000)
    read(world, op, keys * 1_100)


def test_rows_that_are_too_many_are_not_all_read() -> None:
    world = loaded(3_000, 10_000)
    world.values.clear()
    before, read_rows = world.rows, []

    async def rows(revisions):
        read_rows.extend(revisions)
        return await before(revisions)

    world.reads._fetch_rows = rows
    with pytest.raises(AnswerTooLargeError):
        read(world, ALL, 1_000_000)

    assert len(read_rows) < 1_000


def test_list_nobody_waits_for_any_more_is_not_put_together() -> None:
    async def left() -> None:
        world = loaded(9_000, 100)
        found = world.reads.range(ALL, 9_000, 9_000)
        assert isinstance(found, Awaitable)
        first = asyncio.ensure_future(found)
        second = asyncio.ensure_future(world.range(ALL, 9_000))
        await asyncio.sleep(0)
        (building,) = world.reads._building.values()
        first.cancel()
        await asyncio.wait([first])
        assert not building.task.cancelling()
        second.cancel()
        await asyncio.wait([second])

        assert building.task.cancelling()
        assert not world.reads._building

    asyncio.run(left())
