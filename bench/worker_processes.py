"""The driver's worker processes: started once, and given one task after the other."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import signal
from time import monotonic
from typing import TYPE_CHECKING

from bench.worker_messages import Exchange, Task, TaskOutcome
from bench.worker_run import FillJob, FollowJob, Job, MixedJob, UnaryJob, WriteJob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection as Pipe

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
LEAD = 0.05  # seconds between the start message and the start


class WorkerError(Exception):
    """A worker could not do its task; the text gives the reason."""


def job_of(task: Task) -> Job:
    """Sets up a worker's job."""
    match task.role:
        case "follow":
            return FollowJob(task)
        case "write":
            return WriteJob(task)
        case "both":
            return MixedJob(task)
    return FillJob(task) if task.scenario == "fill" else UnaryJob(task)


def keep_memory() -> None:
    """Makes malloc keep freed memory: a list of 10 MB costs 14 ms of page faults otherwise, 2 ms with
    this."""
    with contextlib.suppress(AttributeError):  # glibc only
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def serve(pipe: Pipe) -> None:
    """The main function of a worker process: does tasks until it gets None or the driver ends."""
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver stops its workers
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            if task is None:
                return
            try:
                job = job_of(task)
            except Exception as bad:  # any error must be reported to the driver
                pipe.send(("failed", f"{type(bad).__name__}: {bad}"))
                continue
            gc.collect()
            gc.freeze()
            gc.disable()  # a run is bounded, and a collection would be a pause in its latencies
            pipe.send(("ready", None))
            try:
                start = pipe.recv()
                if start is not None:
                    job.run(start, Exchange(pipe))
                answer: tuple[str, TaskOutcome | str] = ("done", job.outcome())
            except Exception as bad:
                answer = ("failed", f"{type(bad).__name__}: {bad}")
            finally:
                gc.enable()
                gc.unfreeze()
            pipe.send(answer)


class Workers:
    """A pool of worker processes. Use as a context."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        self._pipes: list[Pipe] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        set_up: float = 900.0,
        during: Callable[[float, Callable[[], bool]], None] = lambda _start, _ended: None,
    ) -> list[TaskOutcome]:
        """Runs the tasks at the same time, one per worker. Returns their outcomes. Raises WorkerError.

        `set_up` is the number of seconds they get to prepare. `during` is called with the start time and a
        function that returns whether all are done; `during` should return at the end of the measured time.
        """
        pipes = self._pipes[: len(tasks)]
        for pipe, task in zip(pipes, tasks, strict=True):
            pipe.send(task)
        failures = [self._answer(pipe, set_up, "ready")[1] for pipe in pipes]
        if any(failures):
            for pipe, failure in zip(pipes, failures, strict=True):
                if failure is None:
                    pipe.send(None)
                    self._answer(pipe, 30.0, "done")
            raise WorkerError("; ".join(sorted({str(f) for f in failures if f})))
        start = monotonic() + LEAD
        for pipe in pipes:
            pipe.send(start)
        during(start, lambda: all(pipe.poll() for pipe in pipes))
        limit = tasks[0].warmup + tasks[0].duration + tasks[0].timeout + 700.0
        return self._collect(pipes, tasks, limit)

    def _collect(self, pipes: Sequence[Pipe], tasks: Sequence[Task], limit: float) -> list[TaskOutcome]:
        """Sends the followers the last revision once all writers are done, then collects all outcomes."""
        followers = [pipe for pipe, task in zip(pipes, tasks, strict=True) if task.role in ("follow", "both")]
        if followers:
            newest = 0
            for pipe, task in zip(pipes, tasks, strict=True):
                if task.role in ("write", "both"):
                    kind, value = self._answer(pipe, limit, "done")
                    if kind != "wrote" or not isinstance(value, int):
                        raise WorkerError(str(value))
                    newest = max(newest, value)
            for pipe in followers:
                pipe.send(newest)
        # All are read before any raises: a message left in a pipe would be taken for the next task's.
        answers = [self._answer(pipe, limit, "done") for pipe in pipes]
        outcomes = [value for _, value in answers if isinstance(value, TaskOutcome)]
        if len(outcomes) != len(answers):
            words = {str(value or kind) for kind, value in answers if not isinstance(value, TaskOutcome)}
            raise WorkerError("; ".join(sorted(words)))
        return outcomes

    def _answer(self, pipe: Pipe, limit: float, expected: str) -> tuple[str, object]:
        """The worker's next message; ("failed", why) is returned unchanged."""
        if not pipe.poll(limit):
            raise WorkerError(f"a worker was not {expected} within {limit:g} s")
        try:
            kind, value = pipe.recv()
        except EOFError as gone:
            raise WorkerError("a worker process ended") from gone
        return kind, value

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join(2.0)
            if process.is_alive():
                process.terminate()
                process.join(2.0)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
