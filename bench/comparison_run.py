"""A comparison run: every scenario against every server, in interleaved rounds."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from time import monotonic, sleep, time
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.cold_start_and_memory import cold_start, memory
from bench.histogram import Histogram
from bench.http2 import ProtocolError
from bench.results import Round, Series
from bench.scenarios import NEEDS_START
from bench.server_launcher import PeerError, Peers, Running
from bench.servers_under_test import Target
from bench.sync_client import CallError, SyncClient
from bench.watch_lag import measure
from bench.worker_messages import Task, TaskOutcome
from bench.worker_processes import WorkerError, Workers
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.endpoint import Endpoint
    from bench.process_usage import Server, Usage
    from bench.scenarios import Scenario

ROOT = b"/registry/bench/"
PAGE = 1000  # keys deleted at once
POLL = 0.05  # seconds between two samples of the server's memory


@dataclass(frozen=True, slots=True)
class RunSettings:
    rounds: int = 3
    client: str = "own"
    connections: int = 8
    timeout: float = 10.0
    pause: float = 0.5  # seconds between two rounds


class Comparison:
    """Runs scenarios with several worker processes and collects their outcomes."""

    def __init__(
        self,
        workers: Workers,
        targets: Sequence[Target],
        settings: RunSettings,
        peers: Peers | None = None,
    ) -> None:
        self.run_name = b"%x-%x" % (int(time()), os.getpid())
        self._workers = workers
        self._targets = targets
        self._settings = settings
        self._peers = peers

    @property
    def rounds(self) -> int:
        """The number of rounds of a scenario, over all servers."""
        return self._settings.rounds * len(self._targets)

    def run(
        self,
        scenario: Scenario,
        before: Callable[[str], None] = lambda _: None,
        after: Callable[[], None] = lambda: None,
    ) -> list[Series]:
        """All rounds of a scenario; calls `before` before each round, and `after` at the end."""
        shown = {
            k: v
            for k, v in asdict(scenario).items()
            if k not in ("name", "kind", "title", "data", "fixed_clients")
        }
        shown |= {"connections": self._settings.connections, "client": self._settings.client}
        series = [Series(scenario.name, scenario.title, t.endpoint.name, shown) for t in self._targets]
        for number in range(self._settings.rounds):
            for target, one in zip(self._targets, series, strict=True):
                if one.skipped:
                    after()
                    continue
                before(f"{scenario.name} round {number + 1} {target.endpoint.name}")
                try:
                    if scenario.data and scenario.kind not in NEEDS_START:
                        self.load(target, scenario)
                    one.rounds.append(self._one(target, scenario, number))
                except (WorkerError, CallError, OSError, ProtocolError, PeerError) as bad:
                    one.skipped = f"round {number + 1}: {bad}"
                sleep(self._settings.pause)
                after()
        for target in self._targets:
            if target.fresh is not None:
                target.fresh.stop()
                target.fresh = None
        return series

    def _one(self, target: Target, scenario: Scenario, number: int) -> Round:
        if scenario.kind not in NEEDS_START:
            return self.round(target, scenario, number)
        if target.running is None or self._peers is None:
            raise PeerError("only for servers that bench starts itself: name them with --start")

        def load(running: Running) -> None:
            self.load(Target(running.endpoint, target.peer), scenario)

        if scenario.kind == "coldstart":
            if target.fresh is None:
                target.fresh = self._peers.start(target.running.recipe)
                load(target.fresh)
            return cold_start(target.fresh, data_prefix(scenario), scenario.keys, scenario.size)
        fresh = self._peers.start(target.running.recipe)
        try:
            return memory(fresh, load, scenario.keys)
        finally:
            fresh.stop()

    def load(self, target: Target, scenario: Scenario) -> None:
        """Writes the data set that a scenario reads, if it is missing. Raises WorkerError, CallError."""
        prefix = data_prefix(scenario)
        if prefix in target.loaded:
            return
        if count(target.endpoint, prefix) != scenario.keys:
            self._workers.run(self._tasks(target, scenario, "fill", prefix))
        found = count(target.endpoint, prefix)
        if found != scenario.keys:
            raise WorkerError(f"{found} keys under {prefix.decode()}, {scenario.keys} expected")
        target.loaded.add(prefix)

    def _tasks(self, target: Target, scenario: Scenario, kind: str, prefix: bytes) -> list[Task]:
        return [
            Task(
                scenario=kind,
                endpoint=target.followed if role == "follow" and target.followed else target.endpoint,
                prefix=prefix,
                data_prefix=data_prefix(scenario),
                role=role,
                worker=number,
                workers=workers,
                client=self._settings.client,
                clients=scenario.clients,
                connections=min(self._settings.connections, scenario.clients),
                rate=scenario.rate,
                warmup=scenario.warmup,
                duration=scenario.duration,
                timeout=self._settings.timeout,
                keys=scenario.keys,
                size=scenario.size,
                page=scenario.page,
                watchers=scenario.watchers,
            )
            for role, workers in roles(kind, min(self._workers.count, scenario.clients), self._workers.count)
            for number in range(workers)
        ]

    def round(self, target: Target, scenario: Scenario, number: int) -> Round:
        """Runs a scenario once. Raises WorkerError."""
        prefix = ROOT + b"%b/%b-%d/" % (self.run_name, scenario.name.encode(), number)
        usage = Watch(target.server, scenario)
        outcomes = self._workers.run(self._tasks(target, scenario, scenario.kind, prefix), during=usage)
        made = summarize(outcomes)
        if usage.seconds and usage.before and usage.after:
            cpu = usage.after.cpu - usage.before.cpu
            made.server_cpu = cpu / usage.seconds
            made.server_rss = usage.peak
            if made.completed:
                made.server_cpu_per_request = made.server_cpu * made.elapsed / made.completed
        if any(outcome.watches for outcome in outcomes):
            begin = usage.start + scenario.warmup
            lag = measure(outcomes, begin, begin + scenario.duration)
            made.latency["watch lag"] = lag.from_sending.to_json()
            made.latency["watch lag after the answer"] = lag.from_answer.to_json()
            made.latency["until the last watcher"] = lag.to_last_watcher.to_json()
            made.extra |= {
                "delivered": lag.delivered,
                "writes": lag.writes,
                "events": lag.events,
                "missing": lag.expected - lag.events,
                "unacknowledged": lag.unacknowledged,
            }
        return made

    def clean(self, target: Target) -> None:
        """Deletes the keys of the run, a page at a time: NATS refuses more at once. Raises CallError."""
        with SyncClient(target.endpoint) as client:
            for prefix in (ROOT + self.run_name + b"/", *target.loaded):
                delete_pages(client, prefix)


def delete_pages(client: SyncClient, prefix: bytes) -> None:
    """Deletes every key with this prefix, page by page. Raises CallError."""
    page = rpc_pb2.RangeRequest(
        key=prefix, range_end=etcd_requests.prefix_end(prefix), limit=PAGE, keys_only=True
    ).SerializeToString()
    more = True
    while more:
        answer = rpc_pb2.RangeResponse.FromString(client.call(etcd_requests.RANGE, page, timeout=120.0))
        more = answer.more
        if answer.kvs:
            first, last = answer.kvs[0].key, answer.kvs[-1].key
            body = etcd_requests.sized(b"\x0a", first) + etcd_requests.sized(b"\x12", last + b"\0")
            client.call(etcd_requests.DELETE_RANGE, body, timeout=120.0)


def roles(kind: str, loading: int, most: int) -> list[tuple[str, int]]:
    """The number of workers for each role. In fan-out and churn, watchers and writers never share a process.

    `loading` is the number of workers that could load, `most` the number that exist, at least 2.
    """
    match kind:
        case "fanout":
            return [("write", 1), ("follow", most - 1)]
        case "churn":
            return [("write", most - 1), ("follow", 1)]
        case "mixed":
            return [("both", loading)]
    return [("load", loading)]


def data_prefix(scenario: Scenario) -> bytes:
    return ROOT + b"data-%dx%d/" % (scenario.keys, scenario.size)


def count(endpoint: Endpoint, prefix: bytes) -> int:
    """The number of keys under the prefix. Raises CallError, OSError."""
    with SyncClient(endpoint) as client:
        body = client.call(
            etcd_requests.RANGE,
            etcd_requests.range_of(prefix, etcd_requests.prefix_end(prefix), count_only=True),
            60.0,
        )
    return int(rpc_pb2.RangeResponse.FromString(body).count)


class Watch:
    """Samples a server's CPU and memory during the measured time of a round."""

    def __init__(self, server: Server | None, scenario: Scenario) -> None:
        self._server = server
        self._scenario = scenario
        self.start = 0.0
        self.seconds = 0.0
        self.peak = 0
        self.before: Usage | None = None
        self.after: Usage | None = None

    def __call__(self, start: float, ended: Callable[[], bool]) -> None:
        self.start = start
        if self._server is None:
            return
        begin = start + self._scenario.warmup
        sleep(max(0.0, begin - monotonic()))
        began = monotonic()
        self.before = self._server.usage()
        while monotonic() < begin + self._scenario.duration and not ended():
            sleep(POLL)
            self.peak = max(self.peak, self._server.usage().rss)
        self.after = self._server.usage()
        self.seconds = monotonic() - began


def summarize(outcomes: Sequence[TaskOutcome]) -> Round:
    """One round from the outcomes of all workers."""
    made = Round()
    for outcome in outcomes:
        made.completed += outcome.completed
        made.elapsed = max(made.elapsed, outcome.elapsed)
        made.unstarted += outcome.unstarted
        made.driver_cpu += outcome.cpu / outcome.wall if outcome.wall else 0.0
        made.driver_busiest = max(made.driver_busiest, outcome.cpu / outcome.wall if outcome.wall else 0.0)
        for error, n in outcome.errors.items():
            made.errors[error] = made.errors.get(error, 0) + n
        for error, n in outcome.outside.items():
            made.outside[error] = made.outside.get(error, 0) + n
    made.rate = made.completed / made.elapsed if made.elapsed else 0.0
    answers = sum(outcome.answers for outcome in outcomes)
    made.driver_cpu_per_request = sum(o.cpu for o in outcomes) / answers if answers else 0.0
    kinds = dict.fromkeys(kind for outcome in outcomes for kind in outcome.latency)
    for kind in kinds:
        total = Histogram()
        for outcome in outcomes:
            if kind in outcome.latency:
                total.add(outcome.latency[kind])
        made.latency[kind] = total.to_json()
    return made
