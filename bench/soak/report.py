"""Results of a soak: a JSON file written after each sample, and a Markdown report with a plot at the end."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.soak.verdict import CACHES, MIB, Check, Sample

FORMAT = 1


@dataclass(slots=True)
class SoakResults:
    command: str
    started: str
    machine: dict[str, Any]
    server: str  # how it was run
    version: str
    durability: str
    settings: dict[str, Any]
    rate: float = 0.0  # the target in calls a second
    capacity: float = 0.0  # 0: not measured
    load_seconds: float = 0.0
    loaded_rss: int = 0  # after the objects were loaded, in bytes
    loaded_database: int = 0  # bytes
    samples: list[Sample] = field(default_factory=list)
    compactions: int = 0
    compaction_seconds: float = 0.0  # of the longest compaction
    errors: dict[str, int] = field(default_factory=dict)
    events: int = 0
    expected_events: int = 0
    checks: list[Check] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return bool(self.checks) and all(check.good for check in self.checks)

    def write(self, path: Path) -> None:
        """Replaces the file atomically, so that a killed soak leaves its samples."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        beside.replace(path)


def caches(sample: Sample) -> float:
    """Bytes in the server's caches; 0 for a server without these metrics."""
    return float(sum(sample.get(name, 0) for name in CACHES))


def write_markdown(results: SoakResults, out: Path, plot: Path) -> None:
    """Writes the Markdown file and its plot."""
    from bench import plots  # importing matplotlib takes a second, not needed before

    samples = results.samples
    at = [sample["seconds"] / 60 for sample in samples]

    def line(name: str, scale: float = 1.0) -> list[float]:
        return [sample[name] * scale for sample in samples]

    out.parent.mkdir(parents=True, exist_ok=True)
    panels: list[plots.Panel] = [
        ("MiB", {"memory": line("rss", 1 / MIB), "caches": [caches(one) / MIB for one in samples]}, False),
        ("MiB", {"database": line("db_size", 1 / MIB), "in use": line("db_in_use", 1 / MIB)}, False),
        ("ms", {f"{name} p99": line(f"{name}_p99", 1e3) for name in ("read", "list", "write")}, True),
        ("ms", {f"{name} p50": line(f"{name}_p50", 1e3) for name in ("read", "list", "write")}, True),
        ("ms", {"watch lag p99": line("lag_p99", 1e3), "p50": line("lag_p50", 1e3)}, True),
        ("a second", {"calls": line("rate"), "events": line("event_rate")}, False),
        ("cores", {"server": line("server_cpu"), "calls": line("calls_cpu"), "follow": line("follow_cpu")},
         False),
        ("number", {"descriptors": line("fds"), "threads": line("threads")}, False),
    ]  # fmt: skip
    plots.over_time(plot, at, panels, "minutes")
    shown = Path(os.path.relpath(plot, out.parent)).as_posix()
    out.write_text(
        "\n".join([*_about(results), f"![the soak over time]({shown})", "", *_table(samples)]) + "\n"
    )


def _about(results: SoakResults) -> list[str]:
    settings, machine = results.settings, results.machine
    found = f", {settings['share']:.0%} of {results.capacity:,.0f} found" if results.capacity else ""
    return [
        "# Soak", "",
        f"`{results.command}`, {results.started}", "",
        f"{results.version}: `{results.server}`; {results.durability}", "",
        f"{machine['cores']} cores ({machine['cpu']}), load {machine['load_average'][0]} at the start, "
        f"Python {machine['python']}, kernel {machine['kernel']}", "",
        f"{settings['keys']:,} objects of {settings['size']} bytes, loaded in {results.load_seconds:,.1f} s "
        f"(memory {results.loaded_rss / MIB:,.0f} MiB, database {results.loaded_database / MIB:,.0f} MiB); "
        f"{settings['watchers']:,} watches over "
        f"{settings['watch_connections']} connections, {results.rate:,.0f} calls a second{found}, "
        f"for {settings['duration'] / 60:g} minutes ({settings['warm_up'] / 60:g} not judged), compaction "
        f"every {settings['compact']:g} s ({results.compactions}, the longest "
        f"{results.compaction_seconds:.1f} s), seed {settings['seed']}", "",
        "| check | | found |", "|---|---|---|",
        *(f"| {c.name} | {'yes' if c.good else '**NO**'} | {c.text} |" for c in results.checks), "",
    ]  # fmt: skip


def _table(samples: list[Sample]) -> list[str]:
    """A table of medians, each over a twelfth of the time."""
    lines = [
        "| minutes | calls/s | read p50 / p99 ms | list | write | lag p99 ms | events/s | MiB (caches) | fds "
        "| threads | database MiB (in use) | server cores | driver cores |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    step = max(1, round(len(samples) / 12))
    for first in range(0, len(samples), step):
        part = samples[first : first + step]
        of = {name: median(sample[name] for sample in part) for name in part[0]}
        pairs = (
            f"{of[f'{n}_p50'] * 1e3:.2f} / {of[f'{n}_p99'] * 1e3:.1f}" for n in ("read", "list", "write")
        )
        cells = [
            f"{part[0]['seconds'] / 60:.1f}-{part[-1]['seconds'] / 60:.1f}", f"{of['rate']:,.0f}", *pairs,
            f"{of['lag_p99'] * 1e3:.1f}", f"{of['event_rate']:,.0f}",
            f"{of['rss'] / MIB:,.0f} ({caches(of) / MIB:,.0f})", f"{of['fds']:g}", f"{of['threads']:g}",
            f"{of['db_size'] / MIB:,.0f} ({of['db_in_use'] / MIB:,.0f})", f"{of['server_cpu']:.2f}",
            f"{of['calls_cpu'] + of['follow_cpu']:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines
