"""The profiles of /debug/pprof/: stacks of threads and tasks, CPU samples, heap and garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import sys
import threading
import time
import tracemalloc
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from kine.futures import settle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

MAX_SECONDS = 60
MAX_HERTZ = 1000
MAX_TASKS = 1000  # shown with their stacks

INDEX = """/debug/pprof/threads  the stack of every thread
/debug/pprof/tasks    the stack of every asyncio task
/debug/pprof/profile?seconds=10&hertz=100
                      samples of all threads as collapsed stacks, for flamegraph.pl or speedscope
/debug/pprof/heap?seconds=10
                      where memory was allocated in N seconds; since the start with PYTHONTRACEMALLOC=1
/debug/pprof/gc       the garbage collector's counts
"""

_sampling = threading.Lock()


class ProfilerBusyError(Exception):
    """Another profile is being taken."""


async def page(name: str, query: Mapping[str, str]) -> str | None:
    """The page of this name, or None. Raises ValueError for a bad query, `ProfilerBusyError`."""
    if name == "":
        return INDEX
    if name == "threads":
        return threads()
    if name == "tasks":
        return tasks()
    if name == "gc":
        return collector()
    if name in ("profile", "heap"):
        seconds = number(query, "seconds", 10, MAX_SECONDS)
        hertz = number(query, "hertz", 100, MAX_HERTZ)
        if not _sampling.acquire(blocking=False):
            raise ProfilerBusyError("another profile is being taken; ask again when it is done")
        # `heap` and `profile` release the lock themselves when they are done: the client may be gone by then.
        return await (heap(seconds) if name == "heap" else profile(seconds, hertz))
    return None


async def profile(seconds: int, hertz: int) -> str:
    """Collapsed stacks, sampled by a daemon thread that ends with this task.

    A thread of the pool would delay the exit of the process.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    done: asyncio.Future[str] = loop.create_future()

    def run() -> None:
        stacks = sample(seconds, hertz, stop)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, done, stacks)

    try:
        threading.Thread(target=run, name="profile", daemon=True).start()
    except RuntimeError:  # no thread can be started
        _sampling.release()
        raise
    try:
        return await done
    finally:
        stop.set()


def number(query: Mapping[str, str], name: str, default: int, at_most: int) -> int:
    written = query.get(name, str(default))
    if not written.isascii() or not written.isdigit() or not 1 <= int(written[:9]) <= at_most:
        raise ValueError(f"{name} is a whole number from 1 to {at_most}")
    return int(written)


def threads() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    shown = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented
        stack = "".join(f"  {line}\n" for line in reversed(_frames(frame)))
        shown.append(f"{names.get(ident, 'unknown')}\n{stack}")
    return "\n".join(shown)


def tasks() -> str:
    everything = asyncio.all_tasks()
    shown = io.StringIO()
    shown.write(f"{len(everything)} tasks\n\n")
    for task in islice(sorted(everything, key=lambda task: task.get_name()), MAX_TASKS):
        task.print_stack(limit=20, file=shown)
        shown.write("\n")
    return shown.getvalue()


def sample(seconds: int, hertz: int, stop: threading.Event) -> str:
    """The sampled stacks with their counts, `thread;outer;inner count`, as flame graph tools read them."""
    seen: Counter[str] = Counter()
    own = threading.get_ident()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented
                if ident != own:
                    seen[";".join([names.get(ident, "unknown"), *reversed(_frames(frame))])] += 1
            if stop.wait(1 / hertz):
                break
    finally:
        _sampling.release()
    return "".join(f"{stack} {times}\n" for stack, times in seen.most_common())


def _frames(frame: FrameType | None) -> list[str]:
    """The stack, innermost first."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append(
            f"{code.co_qualname} ({code.co_filename.rpartition('site-packages/')[2]}:{frame.f_lineno})"
        )
        frame = frame.f_back
    return found


async def heap(seconds: int) -> str:
    started_here = not tracemalloc.is_tracing()
    try:
        if started_here:
            tracemalloc.start()
            await asyncio.sleep(seconds)
        snapshot = await asyncio.to_thread(tracemalloc.take_snapshot)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        if started_here:
            tracemalloc.stop()
        _sampling.release()
    since = f"in {seconds} s" if started_here else "since tracing began"
    lines = [f"{held} bytes held of what was allocated {since}, {peak} at the peak"]
    lines += [str(line) for line in snapshot.statistics("lineno")[:50]]
    return "\n".join(lines) + "\n"


def collector() -> str:
    lines = [f"enabled {gc.isenabled()}", f"thresholds {gc.get_threshold()}", f"counts {gc.get_count()}"]
    lines += [f"frozen objects {gc.get_freeze_count()}"]
    lines += [f"generation {number}: {stats}" for number, stats in enumerate(gc.get_stats())]
    return "\n".join(lines) + "\n"
