"""Helpers for asyncio futures that get the outcome of other work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def settle(future: asyncio.Future[T], result: T, error: BaseException | None = None) -> None:
    """Sets the future's result, or the error if there is one; does nothing if the future is done."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def wait_among(waiting: set[asyncio.Future[None]]) -> None:
    """Adds a future to `waiting`, and waits until it is settled."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.add(waiter)
    try:
        await waiter
    finally:
        waiting.discard(waiter)


def _same(error: Exception) -> Exception:
    return error


def pass_on(
    work: Awaitable[T], future: asyncio.Future[T], failed: Callable[[Exception], Exception] = _same
) -> None:
    """Gives the future the outcome of `work`, which is cancelled with it. `failed` translates an error."""
    task = asyncio.ensure_future(work)
    future.add_done_callback(lambda _: task.cancel())

    def done(task: asyncio.Future[T]) -> None:
        if task.cancelled():
            future.cancel()
            return
        error = task.exception()
        if error is None:
            settle(future, task.result())
        elif not future.done():
            future.set_exception(failed(error) if isinstance(error, Exception) else error)

    task.add_done_callback(done)
