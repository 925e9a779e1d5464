"""The run of a soak, from loading the objects to the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import psutil

from bench.http2 import ProtocolError
from bench.soak.driver_processes import Driver, Heard, SoakError, Window, follow, make_calls
from bench.soak.event_counts import Expected, compare
from bench.soak.observed_server import Observed
from bench.soak.soak_settings import CLASSES, SoakSettings, watches
from bench.soak.verdict import Sample, judge
from bench.sync_client import CallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.server_launcher import Running
    from bench.soak.event_counts import Arrived, Written
    from bench.soak.report import SoakResults

SET_UP = 4000.0  # timeout in seconds for loading the objects
EXPIRY = 60.0  # seconds by which the last leases may outlive their TTL, and in which the last events arrive


@dataclass(slots=True)
class Soak:
    """One soak. `told` is called with each event in words and the share of the time that has passed."""

    running: Running
    settings: SoakSettings
    results: SoakResults
    out: Path
    told: Callable[[str, float], None]
    _began: float = 0.0
    _last: Window = field(default_factory=lambda: Window(0.0))
    _heard: Heard = field(default_factory=lambda: Heard(0.0))

    def run(self) -> None:
        """Fills `results`, and writes them after each sample. Raises SoakError when it cannot continue."""
        try:
            with Driver(make_calls, self.settings) as calls:
                self._load(calls)
                with Driver(follow, self.settings) as following:
                    self._soak(calls, following)
        except (OSError, ProtocolError, CallError, psutil.Error) as bad:
            raise SoakError(f"the server cannot be asked: {bad}") from bad

    def _load(self, calls: Driver) -> None:
        started = monotonic()
        while True:
            kind, value = calls.hear(SET_UP)
            if kind == "loaded":
                break
            if kind != "loading":
                raise SoakError(f"the objects were not loaded within {SET_UP:g} s")
            self.told(f"{value:,} objects loaded", value / self.settings.keys)
        self.results.load_seconds = monotonic() - started

    def _soak(self, calls: Driver, following: Driver) -> None:
        self.told(f"opening {self.settings.watchers:,} watches", 0.0)
        if following.hear(300.0)[0] != "open":
            raise SoakError("the watches were not opened within 300 s")
        server = Observed(self.running)
        before = server.holding()
        self.results.loaded_rss, self.results.loaded_database = before.rss, before.db_size
        self.told("compacting what was loaded", 0.0)
        server.catch_up()
        finding = not self.settings.rate
        self.told("finding the capacity" if finding else "starting", 0.0)
        self.results.rate = self.settings.rate
        calls.say("go")
        self._began = self._last.at = self._heard.at = monotonic()
        cpu, database_cpu, at = before.cpu, before.database_cpu, self._began
        every = self.settings.compact_finding if finding else self.settings.compact
        due = self._began + every
        while True:
            if monotonic() >= due:
                due += every
                server.compact_beside()
            kind, value = calls.hear(min(0.2, max(0.0, due - monotonic())))
            if kind == "found":
                # Compaction is part of the cost of calls, so the history that is left is compacted now.
                late = server.catch_up()
                self.results.capacity = value * self.settings.find / (self.settings.find + late)
                self.results.rate = self.results.capacity * self.settings.share
                self.told(f"{value:,.0f} calls a second, and {late:.1f} s to compact them", 0.0)
                before = server.holding()
                calls.say(str(self.results.rate))
                self._began = self._last.at = at = monotonic()
                cpu, database_cpu, every = before.cpu, before.database_cpu, self.settings.compact
                due = self._began + every
            elif kind == "window":
                heard = self._newest(following)
                held = server.holding()
                now = monotonic()
                sample: Sample = {
                    "seconds": round(now - self._began, 2),
                    "rss": held.rss, "fds": held.fds, "threads": held.threads,
                    "server_cpu": (held.cpu - cpu) / (now - at), "database_rss": held.database_rss,
                    "database_cpu": (held.database_cpu - database_cpu) / (now - at),
                    "db_size": held.db_size, "db_in_use": held.db_in_use, "disk": held.disk, **held.told,
                }  # fmt: skip
                cpu, database_cpu, at = held.cpu, held.database_cpu, now
                self._note(sample, value, heard)
                self.results.compactions = server.compactions
                self.results.compaction_seconds = server.compaction_seconds
                self.results.errors = self._errors(server)
                self.results.write(self.out)
            elif kind == "wrote":
                written, unstarted = value
                break
        arrived = self._catch_up(following, written)
        calls.say("end")
        self._heard.errors = arrived.errors
        self._finish(server, written, arrived, unstarted)

    def _newest(self, following: Driver) -> Heard:
        """The follower's newest report; the previous one if the new one is late."""
        while True:
            kind, value = following.hear(0.0)
            if kind != "heard":
                return self._heard
            previous, self._heard = self._heard, value
            self._follow_cpu = (value.cpu - previous.cpu) / max(0.001, value.at - previous.at)
            self._event_rate = (value.events - previous.events) / max(0.001, value.at - previous.at)

    _follow_cpu: float = 0.0
    _event_rate: float = 0.0

    def _note(self, sample: Sample, window: Window, heard: Heard) -> None:
        previous, self._last = self._last, window
        elapsed = max(0.001, window.at - previous.at)
        sample["rate"] = (window.answers - previous.answers) / elapsed
        for name in CLASSES:
            p50, p99, highest = window.latency[name]
            sample |= {f"{name}_p50": p50, f"{name}_p99": p99, f"{name}_max": highest}
        p50, p99, highest = heard.lag
        sample |= {
            "lag_p50": p50, "lag_p99": p99, "lag_max": highest,
            "events": heard.events, "expected_events": window.events, "event_rate": self._event_rate,
            "errors": sum(window.errors.values()) + sum(heard.errors.values()), "waiting": window.waiting,
            "calls_cpu": (window.cpu - previous.cpu) / elapsed, "follow_cpu": self._follow_cpu,
        }  # fmt: skip
        self.results.samples.append(sample)
        write, read = sample["write_p99"] * 1e3, sample["read_p99"] * 1e3
        self.told(
            f"{sample['rate']:,.0f}/s, p99 read {read:.1f} write {write:.1f} lag {p99 * 1e3:.1f} ms, "
            f"{sample['rss'] >> 20:,} MiB, {sample['fds']} fds, {sample['errors']} errors, "
            f"driver {sample['calls_cpu']:.0%}+{sample['follow_cpu']:.0%}",
            sample["seconds"] / self.settings.duration,
        )

    def _errors(self, server: Observed) -> dict[str, int]:
        found = dict(server.errors)
        for errors in (self._last.errors, self._heard.errors):
            for error, count in errors.items():
                found[error] = found.get(error, 0) + count
        return found

    def _catch_up(self, following: Driver, written: Written) -> Arrived:
        """Waits until the watches have all events and every lease has ended. Returns the received counts."""
        expected = Expected(self.settings, written)
        wanted = [expected.of(watch) for watch in watches(self.settings)]
        puts, deletes = sum(w[0] for w in wanted), sum(w[2] for w in wanted)
        deadline = monotonic() + self.settings.event_ttl + EXPIRY
        while monotonic() < deadline:
            missing = puts + deletes - self._heard.events - self._heard.deletes
            self.told(f"{missing:,} events to come, the last with the last lease", 1.0)
            if missing <= 0 and self._heard.events == puts:
                break
            kind, value = following.hear(1.0)
            if kind == "heard":
                self._heard = value
        following.say("end")
        while True:
            kind, value = following.hear(60.0)
            if kind == "arrived":
                arrived: Arrived = value
                return arrived
            if not kind:
                raise SoakError("the follower did not tell what arrived within 60 s")

    def _finish(self, server: Observed, written: Written, arrived: Arrived, unstarted: int) -> None:
        results, settings = self.results, self.settings
        delivery = compare(settings, watches(settings), written, arrived)
        results.events, results.expected_events = delivery.events, delivery.expected
        results.errors = self._errors(server)
        results.checks = judge(
            results.samples,
            delivery,
            results.errors,
            warm_up=settings.warm_up,
            period=settings.compact,
            unstarted=unstarted,
        )
        results.write(self.out)
