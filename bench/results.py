"""Results of a comparison run, stored as a JSON file and read by the report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.histogram import Histogram, HistogramJson

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1


@dataclass(slots=True)
class Round:
    """One run of a scenario against one server. Times in seconds, sizes in bytes."""

    rate: float = 0.0  # right answers per second
    latency: dict[str, HistogramJson] = field(default_factory=dict)  # by kind of request
    elapsed: float = 0.0
    completed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    unstarted: int = 0
    server_cpu: float | None = None  # cores in use; None: the process is unknown
    server_cpu_per_request: float | None = None
    server_rss: int | None = None
    driver_cpu: float = 0.0  # cores in use by all workers
    driver_cpu_per_request: float = 0.0
    driver_busiest: float = 0.0  # share of CPU time of the busiest worker
    extra: dict[str, float] = field(default_factory=dict)  # figures of some scenarios only

    @property
    def error_rate(self) -> float:
        """Share of the measured requests that failed."""
        failed = sum(self.errors.values())
        return failed / (failed + self.completed) if failed else 0.0


@dataclass(slots=True)
class Series:
    """All rounds of one scenario against one server."""

    scenario: str
    title: str
    endpoint: str
    settings: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    skipped: str = ""  # the reason if there are no rounds

    def rate(self) -> tuple[float, float, float]:
        """Median, lowest and highest of the rounds."""
        rates = [r.rate for r in self.rounds]
        return median(rates), min(rates), max(rates)

    def histogram(self, kind: str) -> Histogram:
        """The latencies of one kind in all rounds together."""
        total = Histogram()
        for one in self.rounds:
            if kind in one.latency:
                total.add(Histogram.from_json(one.latency[kind]))
        return total

    def kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for one in self.rounds for kind in one.latency))

    def figure(self, name: str) -> float | None:
        """The median over the rounds of a field of `Round` or of its `extra`; None if never measured."""
        found = []
        for one in self.rounds:
            value = one.extra.get(name) if name in one.extra else getattr(one, name, None)
            if value is not None:
                found.append(float(value))
        return median(found) if found else None


@dataclass(slots=True)
class Peer:
    """A server of the comparison and how it was run."""

    name: str
    url: str
    version: str = ""
    command: str = ""
    durability: str = ""
    note: str = ""


@dataclass(slots=True)
class Results:
    command: str
    started: str
    machine: dict[str, Any]
    peers: list[Peer]
    series: list[Series] = field(default_factory=list)

    def write(self, path: Path) -> None:
        data = {"format": FORMAT, **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n")


class ResultsError(ValueError):
    """A file that is no results file; the text names it."""


def read(path: Path) -> Results:
    """The results in a file. Raises ResultsError, OSError."""
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != FORMAT:
            raise ResultsError(f"{path}: written by another version of bench; run it again")
        series = [Series(**{**s, "rounds": [Round(**r) for r in s["rounds"]]}) for s in data.pop("series")]
        peers = [Peer(**p) for p in data.pop("peers")]
        return Results(**data, peers=peers, series=series)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as bad:
        raise ResultsError(f"{path}: not a results file of bench ({bad})") from bad
