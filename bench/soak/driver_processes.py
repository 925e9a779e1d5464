"""The soak's two driver processes: one makes the calls, one follows the watches. Both report as they run.

A process sends `("failed", why)` or, in order, the messages that its function below names; it receives one
message at a time.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
from array import array
from dataclasses import dataclass, field
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.epoll_loop import Loop
from bench.soak.event_counts import Arrived
from bench.soak.soak_settings import CLASSES, SoakSettings, watches
from bench.soak.soak_traffic import KINDS, LoadObjects, Objects, Sampled, Traffic
from bench.soak.watch_counters import open_counters
from bench.unary_load import Load
from bench.worker_processes import keep_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection as Pipe

LOADING = 3600.0  # timeout in seconds for loading the objects
LOADING_CLIENTS = 128
SETTLE = 1.0  # seconds between finding the capacity and the soak


class SoakError(Exception):
    """The soak cannot continue; the text gives the reason."""


@dataclass(slots=True)
class Window:
    """Latencies of the calls of the last seconds, in seconds: p50, p99 and the highest, by class of calls."""

    at: float  # when it ended, on the monotonic clock
    answers: int = 0
    latency: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    events: int = 0  # of puts, that the watches should have received since they were opened
    errors: dict[str, int] = field(default_factory=dict)  # since the start
    waiting: int = 0  # calls that are due and wait for a free client
    cpu: float = 0.0  # of the process, seconds since its start


@dataclass(slots=True)
class Heard:
    """The events that the watches received in the last seconds."""

    at: float
    events: int = 0  # of puts, since the watches were opened
    deletes: int = 0
    lag: tuple[float, float, float] = (0.0, 0.0, 0.0)
    errors: dict[str, int] = field(default_factory=dict)
    cpu: float = 0.0


def figures(samples: array[float]) -> tuple[float, float, float]:
    """p50, p99 and the highest; zeros if there are no samples."""
    if not samples:
        return 0.0, 0.0, 0.0
    found = np.frombuffer(samples)
    p50, p99 = np.percentile(found, (50, 99))
    return float(p50), float(p99), float(found.max())


def window(load: Sampled, objects: Objects) -> Window:
    """Moves the latencies of a load into a window."""
    made = Window(monotonic(), load.answers, events=objects.events, waiting=load.unstarted)
    for name, kinds in CLASSES.items():
        together = array("d")
        for kind in kinds:
            together += load.samples[KINDS.index(kind)]
        made.latency[name] = figures(together)
    for samples in load.samples:
        del samples[:]
    made.errors = dict(load.errors + load.outside)
    made.cpu = process_time()
    return made


def make_calls(pipe: Pipe, settings: SoakSettings) -> None:
    """Sends `loading` with counts, `loaded`, `found`, then `window`s, and `wrote` with the counts.

    Waits for a message after `loaded`, so that the watches are open before anything is counted, and for the
    rate after `found`, which carries the calls per second of a closed loop.
    """
    loop = Loop()
    links = loop.open(settings.endpoint, settings.connections)
    objects = Objects(settings)
    creating = LoadObjects(objects, lambda n: pipe.send(("loading", n)))
    loading = Load(loop, links, creating, min(LOADING_CLIENTS, settings.keys), limit=60.0)
    loading.run(monotonic(), 0.0, LOADING)
    if loading.errors or loading.completed != len(creating.kinds) * settings.keys:
        wrong = dict(loading.errors)
        raise SoakError(f"{loading.completed} writes of {settings.keys} objects' two were made: {wrong}")
    del creating, loading
    pipe.send(("loaded", None))
    _wait(pipe, loop)
    pipe.recv()
    gc.collect()
    gc.freeze()
    traffic = Traffic(objects, settings.seed)
    rate = settings.rate
    if not rate:
        traffic.kept = settings.compact_finding
        finding = Load(loop, links, traffic, settings.clients, limit=settings.timeout)
        finding.run(monotonic(), settings.find / 4, settings.find * 3 / 4)
        if finding.errors:
            raise SoakError(f"finding the capacity: {dict(finding.errors)}")
        pipe.send(("found", finding.completed / (finding.finish - finding.begin)))
        del finding
        _wait(pipe, loop)
        rate = float(pipe.recv())
        loop.run(monotonic() + SETTLE)
    traffic.kept = settings.compact
    # Enough clients to keep the rate during a stall; a call that finds none free waits, and the wait counts.
    load = Sampled(
        loop, links, traffic, settings.clients * 4, rate=rate, limit=settings.timeout, seed=settings.seed
    )
    load.every = settings.sample
    load.told = lambda one: pipe.send(("window", window(one, objects)))
    load.run(monotonic(), 0.0, settings.duration)
    pipe.send(("window", window(load, objects)))
    pipe.send(("wrote", (objects.written, load.unstarted)))
    pipe.recv()
    loop.close()


def _wait(pipe: Pipe, loop: Loop) -> None:
    """Waits for the next message; the server's pings are answered meanwhile."""
    while not pipe.poll():
        loop.run(monotonic() + 0.1)


def follow(pipe: Pipe, settings: SoakSettings) -> None:
    """Sends `open`, `heard` at intervals, and after the end message `arrived` with the counts."""
    plan = watches(settings)
    arrived, lags = Arrived.empty(len(plan)), array("d")
    loop = Loop()
    links = loop.open(settings.endpoint, min(settings.watch_connections, max(1, len(plan))))
    loop.reconnect = False  # a lost watch is not reopened, so that it shows in the results
    requests = [watch.request(settings, number) for number, watch in enumerate(plan, 1)]
    if requests:
        open_counters(loop, links, requests, arrived, lags)
    pipe.send(("open", None))
    gc.collect()
    gc.freeze()
    due = monotonic() + settings.sample
    while True:
        loop.run(min(due, monotonic() + 0.1))
        if monotonic() >= due:
            due += settings.sample
            made = Heard(monotonic(), sum(arrived.puts), sum(arrived.deletes), figures(lags))
            made.errors, made.cpu = dict(arrived.errors), process_time()
            del lags[:]
            pipe.send(("heard", made))
        if pipe.poll() and pipe.recv() == "end":
            break
    pipe.send(("arrived", arrived))
    loop.close()


def _serve(work: Callable[[Pipe, SoakSettings], None], pipe: Pipe, settings: SoakSettings) -> None:
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops this one
    try:
        work(pipe, settings)
    except (EOFError, BrokenPipeError):  # the parent process has ended
        return
    except Exception as bad:  # any error must be reported to the parent process
        with contextlib.suppress(OSError):
            pipe.send(("failed", f"{type(bad).__name__}: {bad}"))


class Driver:
    """One of the processes. Use as a context."""

    def __init__(self, work: Callable[[Pipe, SoakSettings], None], settings: SoakSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.name = work.__name__
        self._process = context.Process(target=_serve, args=(work, theirs, settings), daemon=True)
        self._process.start()
        theirs.close()

    def hear(self, timeout: float) -> tuple[str, Any]:
        """The next message, ("", None) when none arrives within `timeout` seconds. Raises SoakError."""
        if not self._pipe.poll(timeout):
            return "", None
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as gone:
            raise SoakError(f"the driver's process to {self.name} ended") from gone
        if kind == "failed":
            raise SoakError(f"{self.name}: {value}")
        return kind, value

    def say(self, word: str) -> None:
        self._pipe.send(word)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(2.0)
