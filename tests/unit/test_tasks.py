"""Background tasks: kept referenced until they end, awaited and cancelled together."""

from __future__ import annotations

import asyncio
import gc

from kine.background_tasks import BackgroundTasks


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    tasks, ended = BackgroundTasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        gc.collect()
        ended.set()

    tasks.start(work())
    await asyncio.wait_for(ended.wait(), 60)


async def test_the_end_is_awaited_of_those_too_that_begin_meanwhile() -> None:
    tasks, seen = BackgroundTasks(), list[str]()

    async def second() -> None:
        await asyncio.sleep(0)
        seen.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second())
        seen.append("first")

    tasks.start(first())
    await tasks.ended()
    await tasks.ended()

    assert seen == ["first", "second"]


async def test_cancelled_tasks_have_ended_and_a_failure_is_their_own() -> None:
    tasks, begun = BackgroundTasks(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    task = tasks.start(stubborn(), "stubborn")
    await asyncio.wait_for(begun.wait(), 60)
    await tasks.cancel()

    assert task.get_name() == "stubborn"
    assert isinstance(task.exception(), ValueError)
