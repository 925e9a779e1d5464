"""Defragmentation: concurrent requests share one run, with a pause after each."""

from __future__ import annotations

import asyncio

import pytest

from kine.drivers.base import BusyError, UnavailableError
from kine.store import defragmentation
from kine.store.defragmentation import Defragmenter


class Work:
    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.fails = False

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        if self.fails:
            raise UnavailableError("it failed")


@pytest.fixture
def work() -> Work:
    return Work()


async def test_all_who_ask_while_one_is_under_way_join_it(work: Work) -> None:
    defragmenter = Defragmenter(work)
    asking = [asyncio.create_task(defragmenter.request()) for _ in range(50)]
    await asyncio.sleep(0.01)
    asking += [asyncio.create_task(defragmenter.request()) for _ in range(50)]
    work.may_end.set()
    await asyncio.gather(*asking)

    assert work.begun == 1


async def test_client_that_goes_ends_nothing(work: Work) -> None:
    defragmenter = Defragmenter(work)
    gone, stays = (asyncio.create_task(defragmenter.request()) for _ in range(2))
    await asyncio.sleep(0.01)
    gone.cancel()
    work.may_end.set()
    await stays

    assert gone.cancelled()
    assert work.begun == 1


async def test_next_one_waits_for_its_rest(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defragmentation, "_LEAST", 0.2)
    work.may_end.set()
    defragmenter = Defragmenter(work)
    await defragmenter.request()
    asking = [asyncio.create_task(defragmenter.request()) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert work.begun == 1

    await asyncio.gather(*asking)
    assert work.begun == 2


async def test_one_that_would_wait_long_is_refused_with_the_reason(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defragmentation, "_LEAST", 100.0)
    work.may_end.set()
    defragmenter = Defragmenter(work, processes=3)
    await defragmenter.request()

    with pytest.raises(BusyError, match=r"again in (300|299) s"):
        await defragmenter.request()
    assert work.begun == 1


async def test_failure_reaches_all_and_the_next_is_tried_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defragmentation, "_LEAST", 0.01)
    work.fails = True
    defragmenter = Defragmenter(work)
    asking = [asyncio.create_task(defragmenter.request()) for _ in range(3)]
    await asyncio.sleep(0)
    work.may_end.set()
    outcome = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in outcome] == [UnavailableError] * 3

    work.fails = False
    await defragmenter.request()
    assert work.begun == 2


async def test_close_ends_what_is_under_way(work: Work) -> None:
    defragmenter = Defragmenter(work)
    asking = asyncio.create_task(defragmenter.request())
    await asyncio.sleep(0.01)

    await defragmenter.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
