"""Linearizable reads: which of the database's answers each of them waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from kine.drivers.base import Log, UnavailableError
from kine.store.freshness import Freshness
from kine.store.index import Index


class Held:
    """A database that answers when the test says, and an applier that follows it."""

    def __init__(self) -> None:
        self.index = Index()
        self.questions: list[asyncio.Future[int]] = []
        self.reached: list[int] = []
        self.doubts = 0
        self.freshness = Freshness(cast("Log", self), self.index, self)
        self.told: dict[str, Exception | None] = {}

    def peek(self) -> int | None:
        return None

    def newest(self) -> asyncio.Future[int]:
        self.questions.append(asyncio.get_running_loop().create_future())
        return self.questions[-1]

    async def reach(self, revision: int) -> None:
        self.reached.append(revision)
        self.index.revision = max(self.index.revision, revision)

    async def doubt(self) -> None:
        self.doubts += 1

    def wait(self, name: str) -> None:
        lacking = self.freshness.revision_to_reach()
        assert lacking is not None
        self.freshness.wait(lacking, lambda error: self.told.update({name: error}))

    async def answer(self, newest: int | Exception) -> None:
        """Answers the latest query; returns once the callbacks of its caller have run."""
        question = self.questions[-1]
        called = asyncio.Event()
        question.add_done_callback(lambda _: called.set())  # the last of its callbacks
        if isinstance(newest, Exception):
            question.set_exception(newest)
        else:
            question.set_result(newest)
        await called.wait()

    async def until_told(self, name: str) -> Exception | None:
        await _until(lambda: name in self.told)
        return self.told[name]

    async def until_asked(self, times: int) -> None:
        await _until(lambda: len(self.questions) >= times)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing announces a turn of the loop
            await asyncio.sleep(0)


@pytest.fixture
def held() -> Held:
    return Held()


async def test_a_question_under_way_tells_nothing_to_who_comes_later(held: Held) -> None:
    held.wait("first")
    held.wait("second")
    held.wait("third")
    assert len(held.questions) == 1
    await held.answer(0)
    assert list(held.told) == ["first"]
    await held.answer(0)
    assert held.told == {"first": None, "second": None, "third": None}
    assert len(held.questions) == 2


async def test_in_a_burst_all_share_one_question(held: Held) -> None:
    for name in ("first", "second", "third"):
        held.wait(name)
    await held.answer(0)
    await held.answer(0)
    for name in ("fourth", "fifth", "sixth"):
        held.wait(name)
    await held.until_asked(3)
    await held.answer(0)
    assert len(held.told) == 6
    assert len(held.questions) == 3


async def test_what_is_newer_is_applied_first(held: Held) -> None:
    held.wait("read")
    await held.answer(7)
    assert await held.until_told("read") is None
    assert held.reached == [7]


async def test_a_database_that_went_back_is_doubted(held: Held) -> None:
    held.index.revision = 9
    held.wait("read")
    await held.answer(7)
    await held.until_asked(2)
    assert (held.doubts, held.told) == (1, {})
    await held.answer(9)
    assert await held.until_told("read") is None


async def test_a_failure_is_told_to_those_who_shared_the_question(held: Held) -> None:
    held.wait("first")
    held.wait("second")
    held.wait("third")
    await held.answer(0)
    failure = UnavailableError("away")
    await held.answer(failure)
    assert held.told == {"first": None, "second": failure, "third": failure}
    held.wait("fourth")
    await held.until_asked(3)
    await held.answer(0)
    assert held.told["fourth"] is None


async def test_a_question_that_cannot_be_put_is_a_failure(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> asyncio.Future[int]:
        raise RuntimeError

    monkeypatch.setattr(held, "newest", broken)
    held.wait("read")
    assert isinstance(await held.until_told("read"), RuntimeError)


async def test_one_who_fails_to_listen_spares_the_others(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    def deaf(error: Exception | None) -> None:
        raise RuntimeError

    held.freshness.wait(0, deaf)
    held.wait("other")
    await held.answer(0)
    await held.answer(0)
    assert held.told == {"other": None}
    assert "telling a read failed" in caplog.text
