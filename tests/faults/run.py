"""One fault run: traffic, watches, compactions and faults together; then all is healed and checked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import grpc

from tests.client import Client, prefix_end
from tests.faults.backing_services import behind
from tests.faults.cluster import Cluster
from tests.faults.cross_instance_reads import after_compaction, after_revocation
from tests.faults.fault_schedule import Fault, inflict, schedule
from tests.faults.history_checks import violations
from tests.faults.lease_traffic import GONE, LEASED, Holder
from tests.faults.traffic import END, PREFIX, Call, Caller, Known
from tests.faults.watch_traffic import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Backend

_HEAL = 120.0  # seconds after the last fault for every watch to reach the end
_COMPACT_EVERY = 0.5  # so that instances are started while others compact
_HOLDERS = 3  # of leases
_KEPT = 400  # revisions that compaction leaves
_LEAP = 50_000  # more than are written between two compactions
_REST = 10.0  # seconds without compaction after a leap


@dataclass(frozen=True, slots=True)
class Plan:
    backend: Backend
    seed: str
    operations: int  # whose outcome is known, before the run ends
    seconds: float  # or after so long
    least: int = 0  # operations, however long they take
    instances: int = 3
    clients: int = 8
    keys: int = 20
    faults: bool = True
    disk: bool = True  # a loop disk, where one can be mounted: it is then filled and frozen


@dataclass(slots=True)
class Report:
    plan: Plan
    instances: int = 0
    operations: int = 0
    unknown: int = 0  # failed calls whose outcome the events revealed
    refused: int = 0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    compactions: int = 0
    leases: int = 0
    seconds: float = 0.0
    between: list[str] = field(default_factory=list)  # wrong responses found during the run
    violations: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    inflicted: list[tuple[int, Fault]] = field(default_factory=list)  # when, of the calls' clock


Tell = Callable[[int, str], None]  # operations so far, the fault under way


def run(plan: Plan, directory: Path, tell: Tell = lambda done, fault: None) -> Report:
    directory.mkdir(parents=True, exist_ok=True)
    size = plan.instances if plan.backend.capabilities.second_instance else 1
    below = behind(plan.backend.kind, directory, with_disk=plan.disk)
    cluster = Cluster(plan.backend, directory, size, below)
    try:
        cluster.start()
        return _run(plan, cluster, tell)
    finally:
        cluster.close()


def _run(plan: Plan, cluster: Cluster, tell: Tell) -> Report:
    report = Report(plan, cluster.size)
    known = Known()
    with Client(cluster.address(0)) as client:
        start = client.put(PREFIX + b"first", b"first").header.revision
        known.revision = known.floor = start
    callers = [Caller(n, plan.seed, plan.keys, cluster.numbers, cluster.address, known)
               for n in range(plan.clients)]  # fmt: skip
    watchers = [Watcher(number, cluster.address, start) for number in range(cluster.size)]
    holders = [Holder(n, plan.seed, cluster.numbers, cluster.address) for n in range(_HOLDERS)]
    stop, stop_watching = threading.Event(), threading.Event()
    threads = [threading.Thread(target=caller.run, args=(stop,), daemon=True) for caller in callers]
    threads += [threading.Thread(target=holder.run, args=(stop,), daemon=True) for holder in holders]
    threads.append(threading.Thread(target=_compact, args=(cluster, known, report, start, stop), daemon=True))
    following = [threading.Thread(target=w.run, args=(stop_watching,), daemon=True) for w in watchers]
    began = time.monotonic()
    for thread in (*threads, *following):
        thread.start()
    faults = schedule(plan.seed, cluster)
    while (done := sum(caller.done for caller in callers)) < plan.operations:
        if time.monotonic() - began > plan.seconds and done >= plan.least:
            break
        if plan.faults:
            [fault] = islice(faults, 1)
            tell(done, str(fault))
            report.inflicted.append((time.monotonic_ns(), fault))
            inflict(fault, cluster)
            report.faults[fault.kind] += 1
        else:
            time.sleep(0.2)
        tell(done, "")
    stop.set()
    for thread in threads:
        thread.join(30)
    report.calls = calls = sorted(
        (call for one in (*callers, *holders) for call in one.calls), key=lambda call: call.called
    )
    report.violations, report.watchers = _healed(cluster, watchers), watchers
    stop_watching.set()
    for thread in following:
        thread.join(30)
    report.seconds = time.monotonic() - began
    outcomes = Counter(call.outcome.value for call in calls)
    report.operations, report.unknown = outcomes["done"], outcomes["unknown"]
    report.refused = outcomes["refused"]
    report.events = sum(len(watcher.first_seen) for watcher in watchers)
    report.leases = sum(len(holder.leases) for holder in holders)
    report.violations += report.between
    report.violations += violations(calls, _without_first(watchers), holders)
    return report


def _without_first(watchers: list[Watcher]) -> list[Watcher]:
    for watcher in watchers:
        for segment in watcher.segments:
            segment.answers = [
                (kind, header, tuple(event for event in events if event.item.key != _LAST))
                for kind, header, events in segment.answers
            ]
    return watchers


_LAST = PREFIX + b"last"


def _healed(cluster: Cluster, watchers: list[Watcher]) -> list[str]:
    """Waits until every instance responds again, all alike, and every watch reaches the end."""
    if living := _living(cluster):
        return [f"leases that were left live on: {living}"]
    deadline = time.monotonic() + _HEAL
    last = 0
    while not last and time.monotonic() < deadline:
        with contextlib.suppress(grpc.RpcError), Client(cluster.address(0)) as client:
            last = client.put(_LAST, b"last").header.revision
    if not last:
        return ["no write is accepted after the last fault"]
    while any(watcher.reached < last for watcher in watchers):
        if time.monotonic() > deadline:
            return [f"watches stand at {[watcher.reached for watcher in watchers]}, the end is {last}"]
        time.sleep(0.05)
    answers = []
    for number in cluster.numbers():
        with Client(cluster.address(number)) as client:
            answers.append(client.range(PREFIX, END).kvs)
    return [] if all(answer == answers[0] for answer in answers) else ["instances do not agree in the end"]


def _living(cluster: Cluster) -> list[bytes]:
    """Leased keys that still exist when all must be gone."""
    keys: list[bytes] = []
    deadline = time.monotonic() + GONE
    while time.monotonic() < deadline:
        with contextlib.suppress(grpc.RpcError), Client(cluster.address(0)) as client:
            keys = [item.key for item in client.range(LEASED, prefix_end(LEASED), keys_only=True).kvs]
            if not keys:
                break
        time.sleep(0.05)
    return keys


def _compact(cluster: Cluster, known: Known, report: Report, start: int, stop: threading.Event) -> None:
    number = 0
    seen, rest = start, 0.0
    while not stop.wait(_COMPACT_EVERY):
        revision = known.revision - _KEPT
        if revision - seen > _LEAP:  # a leap of ids: events that watches have not received yet lie below it
            rest = time.monotonic() + _REST
        seen = max(seen, revision)
        if time.monotonic() < rest:
            continue
        number = (number + 1) % cluster.size
        address = cluster.address(number)
        if revision <= start or not address:
            continue
        known.floor = revision
        elsewhere = cluster.address((number + 1) % cluster.size)
        with contextlib.suppress(grpc.RpcError), Client(address) as client:
            client.compact(revision)
            report.compactions += 1
            if elsewhere and elsewhere != address:
                with Client(elsewhere) as other:
                    report.between += [*after_compaction(other, revision), *after_revocation(client, other)]
