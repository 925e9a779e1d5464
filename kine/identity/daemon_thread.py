"""Blocking calls in a daemon thread, for work that a network without answers may block for long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Runs `work()` in a thread of its own. Unlike a pool's thread, it does not delay the process' exit.

    Raises what `work` raises, and OSError if no thread can be started.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failure)

    try:
        threading.Thread(target=run, name="identity", daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread can be started: raise the limit on threads") from None
    return await done
