"""Markdown reports with plots, made from results files."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import plots
from bench.report_sections import Report, about, cold_start, memory, method, overview, scenario
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Peer, Results, Series

UNARY = ("create", "update", "delete", "get", "list", "relist", "page", "count", "mixed")


def join(runs: Sequence[Results]) -> Report:
    """One report from several results. Results under one server name must be of the same server.

    Raises ValueError when they are not.
    """
    peers: dict[str, Peer] = {}
    series: list[Series] = []
    for run in runs:
        for peer in run.peers:
            known = peers.setdefault(peer.name, peer)
            if (known.version, known.durability) != (peer.version, peer.durability):
                raise ValueError(
                    f"{peer.name} of {run.started} is another server: its version or durability differs"
                )
        for one in run.series:
            same = [s for s in series if (s.scenario, s.endpoint) == (one.scenario, one.endpoint)]
            if same and same[0].settings == one.settings:
                same[0].rounds += one.rounds
            elif same:
                raise ValueError(f"{one.scenario} of {one.endpoint} was run with different settings")
            else:
                series.append(one)
    return Report(list(runs), list(peers.values()), series)


def write(report: Report, out: Path, plot_directory: Path, suffix: str, title: str = "Performance") -> None:
    """Writes the Markdown file and its plots; `suffix` is `.svg` or `.png`."""

    def plot(name: str, alt: str, draw: Callable[[Path], None]) -> list[str]:
        path = plot_directory / f"{name}{suffix}"
        draw(path)
        shown = Path(os.path.relpath(path, out.parent)).as_posix()
        return [f"![{alt}]({shown})", ""]

    lines = [f"# {title}", "", *about(report), *overview(report)]
    lines += _requests(report, plot)
    lines += _watches(report, plot)
    lines += _lifecycle(report, plot)
    lines += method(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines).rstrip() + "\n")


Plot = Callable[[str, str, Callable[[Path], None]], list[str]]


def _requests(report: Report, plot: Plot) -> list[str]:
    names = report.names
    found = {name: report.of(name) for name in report.scenarios() if SCENARIOS[name].kind in UNARY}
    found = {name: series for name, series in found.items() if series}
    if not found:
        return []
    lines = ["## Requests", ""]
    lines += plot("rates", "rates", lambda path: plots.rates(path, found, names, "Right answers per second"))
    for name, series in found.items():
        lines += scenario(series)
        kind = series[0].kinds()[0]
        title = f"{series[0].title}: latency of {kind}"
        lines += plot(
            f"latency-{name}", title, partial(_latency, found=series, kind=kind, names=names, title=title)
        )
    return lines


def _latency(path: Path, *, found: list[Series], kind: str, names: list[str], title: str) -> None:
    plots.latencies(path, found, kind, names, title)


def _watches(report: Report, plot: Plot) -> list[str]:
    lines: list[str] = []
    for kind, title, unit, at in (
        ("fanout", "Watch lag by number of watchers", "watchers", "watchers"),
        ("churn", "Watch lag under churn, by number of writing clients", "clients", "clients"),
    ):
        chosen = [name for name in report.scenarios() if SCENARIOS[name].kind == kind and report.of(name)]
        if not chosen:
            continue
        points: dict[str, list[tuple[int, float, float]]] = {}
        for name in chosen:
            for series in report.of(name):
                lag = series.histogram("watch lag")
                point = (int(series.settings[at]), lag.percentile(50), lag.percentile(99))
                points.setdefault(series.endpoint, []).append(point)
        lines += [f"## {title}", ""]
        lines += plot(
            kind, title, partial(_by_count, points=points, names=report.names, title=title, unit=unit)
        )
        for name in chosen:
            lines += scenario(report.of(name))
    return lines


def _by_count(
    path: Path, *, points: dict[str, list[tuple[int, float, float]]], names: list[str], title: str, unit: str
) -> None:
    plots.by_count(path, points, names, title, unit)


def _lifecycle(report: Report, plot: Plot) -> list[str]:
    lines: list[str] = []
    cold = report.of("coldstart")
    if cold:
        values = {s.endpoint: s.figure("first_get_seconds") or 0.0 for s in cold}
        title = f"Cold start with {cold[0].settings['keys']:,} keys"
        lines += [f"## {title}", "", *cold_start(cold)]
        lines += plot(
            "coldstart", title, lambda path: plots.bars(path, {"": values}, report.names, title, "seconds")
        )
    used = report.of("memory")
    if used:
        groups = {
            label: {s.endpoint: (s.figure(name) or 0.0) / (1 << 20) for s in used}
            for label, name in (
                ("empty", "rss_empty"),
                ("loaded", "rss_loaded"),
                ("restarted", "rss_restarted"),
            )
        }
        heading = f"Memory with {used[0].settings['keys']:,} keys of {used[0].settings['size']:,} bytes"
        lines += [f"## {heading}", "", *memory(used)]
        lines += plot("memory", heading, lambda path: plots.bars(path, groups, report.names, heading, "MiB"))
    return lines
