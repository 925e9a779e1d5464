"""The run of one task in a worker process: set up, run from an agreed time on, report the outcome."""

from __future__ import annotations

from time import monotonic, process_time
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.epoll_loop import Link, Loop
from bench.grpcio_load import GrpcioLoad
from bench.histogram import Histogram
from bench.mixed_profile import Mixed
from bench.operations import (
    Count,
    Create,
    Delete,
    Get,
    KeyRevisions,
    ListPaged,
    ListWhole,
    Relist,
    Update,
    key_of,
    values,
)
from bench.unary_load import Load, Operation
from bench.watch_load import Churn, Follower, NotedUpdate, Writes, open_watches
from bench.worker_messages import Exchange, Task, TaskOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

FILL_SECONDS = 600.0  # timeout for loading the data set
FILL_CLIENTS = 64
KEYS_A_CLIENT = 16  # keys that an updating client owns
WATCH_SET_UP = 60.0  # seconds until all watches must exist
WATCH_STREAMS = 16  # at most, per process


class SetUpError(Exception):
    """The run cannot begin; the text gives the reason."""


def fill(
    loop: Loop, links: list[Link], prefix: bytes, numbers: range, size: int, *, existing_ok: bool = False
) -> dict[int, int]:
    """Creates the keys `numbers` of the prefix. Returns the revisions of the new keys by number."""
    create = Create(prefix, numbers, values(size, 1), existing_ok=existing_ok)
    load = Load(loop, links, create, min(FILL_CLIENTS, len(numbers) or 1), limit=60.0)
    load.run(monotonic(), 0.0, FILL_SECONDS)
    if load.errors or (not existing_ok and len(create.revisions) != len(numbers)):
        worst = load.errors.most_common(1)
        why = f"{worst[0][1]} x {worst[0][0]}" if worst else f"no end within {FILL_SECONDS:g} s"
        raise SetUpError(f"loading {len(numbers)} keys: {why}")
    return create.revisions


class Job:
    """A task's work in this process: construct it to set up, then call `run` once, then `outcome`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.loop = Loop()
        self.links: list[Link] = []
        self.result = TaskOutcome()

    def connect(self, connections: int) -> None:
        self.links = self.loop.open(self.task.endpoint, max(1, connections))

    def run(self, start: float, exchange: Exchange) -> None:
        """Works from the monotonic time `start` on.

        A following job continues until `exchange` gives the last revision and all its watches have seen it.
        """
        raise NotImplementedError

    def outcome(self) -> TaskOutcome:
        """Closes the connections and returns the outcome."""
        self.loop.close()
        return self.result

    def measure(self, load: Load | GrpcioLoad, start: float) -> None:
        """Runs the load and stores its figures."""
        task, result = self.task, self.result
        cpu, wall = process_time(), monotonic()
        load.run(start, task.warmup, task.duration)
        result.cpu, result.wall = process_time() - cpu, monotonic() - wall
        self.note(load)

    def note(self, load: Load | GrpcioLoad) -> None:
        result = self.result
        for kind, samples in zip(load.operation.kinds, load.samples, strict=True):
            result.latency[kind] = Histogram()
            result.latency[kind].record(samples)
        result.completed = load.completed
        result.answers = load.answers
        end = min(load.finish, load.last_end) if load.ran_out else load.finish
        result.elapsed = max(0.0, end - load.begin)
        result.errors = dict(load.errors)
        result.outside = dict(load.outside)
        result.unstarted = load.unstarted


class UnaryJob(Job):
    """A scenario that consists of unary calls."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.connect(task.share(task.connections))
        self.slots = task.share(task.clients)
        self.own_prefix = b"%bw%d/" % (task.prefix, task.worker)
        self.operation = self._operation()
        if task.client == "grpcio":
            self.load: Load | GrpcioLoad = GrpcioLoad(
                task.endpoint,
                len(self.links),
                self.operation,
                self.slots,
                rate=task.rate / task.workers,
                limit=task.timeout,
            )
            return
        self.load = Load(
            self.loop,
            self.links,
            self.operation,
            self.slots,
            rate=task.rate / task.workers,
            limit=task.timeout,
            seed=task.seed * 100 + task.worker,
        )

    def run(self, start: float, exchange: Exchange) -> None:
        self.measure(self.load, start)
        if isinstance(self.operation, ListPaged):
            self.result.latency["pass"] = Histogram()
            self.result.latency["pass"].record(self.operation.passes)

    def _operation(self) -> Operation:
        task = self.task
        seed = task.seed * 100 + task.worker
        match task.scenario:
            case "create":
                return Create(self.own_prefix, range(1 << 40), values(task.size, seed))
            case "update":
                return Update(self.own_keys(KEYS_A_CLIENT), values(task.size, seed))
            case "delete":
                return Delete(self.own_keys(max(1, task.keys // task.clients)))
            case "get":
                return Get(task.data_prefix, task.keys, task.size, seed)
            case "list":
                return ListWhole(task.data_prefix, task.keys, task.size)
            case "relist":
                return Relist(task.data_prefix, task.keys, task.size, seed)
            case "page":
                return ListPaged(task.data_prefix, task.keys, task.page)
            case "count":
                return Count(task.data_prefix, task.keys)
        raise SetUpError(f"no scenario {task.scenario!r}")

    def own_keys(self, each: int) -> Callable[[int], KeyRevisions]:
        """Creates `each` keys for every slot. Returns a function from a slot's number to its keys."""
        prefix = self.own_prefix
        made = fill(self.loop, self.links, prefix, range(self.slots * each), self.task.size)

        def keys(slot: int) -> KeyRevisions:
            numbers = range(slot * each, (slot + 1) * each)
            return KeyRevisions([key_of(prefix, n) for n in numbers], [made[n] for n in numbers])

        return keys


class FillJob(Job):
    """Writes this worker's part of the data set; existing keys are left unchanged."""

    def run(self, start: float, exchange: Exchange) -> None:
        task = self.task
        self.connect(task.share(task.connections))
        first = sum(task.keys // task.workers + (w < task.keys % task.workers) for w in range(task.worker))
        mine = range(first, first + task.share(task.keys))
        begun, cpu = monotonic(), process_time()
        fill(self.loop, self.links, task.data_prefix, mine, task.size, existing_ok=True)
        self.result.completed = self.result.answers = len(mine)
        self.result.elapsed = self.result.wall = monotonic() - begun
        self.result.cpu = process_time() - cpu


class FollowJob(Job):
    """Watches of one prefix, spread over up to WATCH_STREAMS streams."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        watches = self.watches = task.share(task.watchers)
        self.followers: list[Follower] = []
        if watches:
            self.connect(min(watches, WATCH_STREAMS))
            self.loop.reconnect = False  # a lost watch is not reopened, so that it shows in the results
            request = etcd_requests.watch(task.prefix, etcd_requests.prefix_end(task.prefix))
            self.followers = open_watches(self.loop, self.links, [request] * watches, WATCH_SET_UP)

    def run(self, start: float, exchange: Exchange) -> None:
        cpu, wall = process_time(), monotonic()
        last: int | None = None
        give_up = start + self.task.warmup + self.task.duration + 120.0
        while last is None and monotonic() < give_up:
            self.loop.run(monotonic() + 0.1)
            last = exchange.newest()
        result = self.result
        result.cpu, result.wall = process_time() - cpu, monotonic() - wall
        follow_to_end(self.loop, self.followers, last or 0, self.task.timeout)
        note_events(result, self.followers, self.watches)


def follow_to_end(loop: Loop, followers: list[Follower], last: int, timeout: float) -> None:
    """Waits up to `timeout` seconds until every watch has seen the revision `last`."""
    deadline = monotonic() + timeout
    for follower in followers:
        follower.parse()
    while not all(f.ended or f.oldest >= last for f in followers) and monotonic() < deadline:
        loop.run(monotonic() + 0.1)
        for follower in followers:
            follower.parse()


def note_events(result: TaskOutcome, followers: list[Follower], watches: int) -> None:
    for follower in followers:
        result.seen += follower.revisions
        result.arrived += follower.arrivals
        for error, count in follower.errors.items():
            result.errors[error] = result.errors.get(error, 0) + count
    result.watches = watches


class WriteJob(UnaryJob):
    """The writer of a watch scenario: notes the times of each write."""

    def __init__(self, task: Task) -> None:
        self.writes = Writes()
        super().__init__(task)

    def _operation(self) -> Operation:
        task = self.task
        pool = values(task.size, task.seed)
        if task.scenario == "churn":
            return Churn(task.prefix, task.worker, pool, self.writes)
        return NotedUpdate(self.own_keys(1), pool, self.writes)

    def run(self, start: float, exchange: Exchange) -> None:
        super().run(start, exchange)
        note_writes(self.result, self.writes, exchange)


def note_writes(result: TaskOutcome, writes: Writes, exchange: Exchange) -> None:
    result.written, result.sent, result.acked = writes.revisions, writes.sent, writes.acked
    exchange.wrote(max(writes.revisions, default=0))


class MixedJob(UnaryJob):
    """The Kubernetes profile: calls of every kind, and watches that follow the writes."""

    def __init__(self, task: Task) -> None:
        self.writes = Writes()
        super().__init__(task)
        request = etcd_requests.watch(task.prefix, etcd_requests.prefix_end(task.prefix))
        requests = [request] * task.share(task.watchers)
        self.followers = open_watches(self.loop, self.links[:1], requests, WATCH_SET_UP) if requests else []

    def _operation(self) -> Operation:
        task = self.task
        return Mixed(
            self.own_prefix,
            self.own_keys(KEYS_A_CLIENT),
            task,
            seed=task.seed * 100 + task.worker,
            writes=self.writes,
        )

    def run(self, start: float, exchange: Exchange) -> None:
        super().run(start, exchange)
        last: int | None = None
        deadline = monotonic() + 60.0
        note_writes(self.result, self.writes, exchange)
        while last is None and monotonic() < deadline:
            self.loop.run(monotonic() + 0.1)
            last = exchange.newest()
        follow_to_end(self.loop, self.followers, last or 0, self.task.timeout)
        note_events(self.result, self.followers, self.task.share(self.task.watchers))
