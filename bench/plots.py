"""Plots for the reports, made with matplotlib as SVG or PNG files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.results import Series

COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#edae49", "#7a5195", "#5c5c5c", "#00a6a6", "#a05a2c")
_STYLE: Any = {
    "svg.hashsalt": "bench",  # makes the file reproducible
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}
PERCENTS = [100 * (1 - 10 ** (-n / 25)) for n in range(101)]  # up to 99.99%, evenly spaced on the axis


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each server, the same in all plots."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def rates(path: Path, by_scenario: dict[str, list[Series]], names: Sequence[str], title: str) -> None:
    """Bars of every scenario's median rate, relative to the first server; whiskers span the rounds."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8.0, 0.6 + 0.28 * len(by_scenario) * max(1, len(names))))
        tint = colours(names)
        step = 0.8 / len(names)
        for row, found in enumerate(by_scenario.values()):
            base = next((s.rate()[0] for s in found if s.endpoint == names[0] and s.rounds), 0.0)
            for series in found:
                if not series.rounds or not base:
                    continue
                middle, low, high = (value / base for value in series.rate())
                place = row + step * (names.index(series.endpoint) - (len(names) - 1) / 2)
                axes.barh(place, middle, step * 0.92, color=tint[series.endpoint],
                          xerr=[[middle - low], [high - middle]], ecolor="#333333", capsize=2)  # fmt: skip
                axes.text(high, place, f"  {series.rate()[0]:,.0f}/s", va="center", fontsize=7)
        axes.set_yticks(range(len(by_scenario)), [found[0].title for found in by_scenario.values()])
        axes.invert_yaxis()
        axes.axvline(1.0, color="#333333", linewidth=0.8)
        axes.set_xlabel(f"rate relative to {names[0]}")
        axes.set_title(title)
        _legend(axes, names, tint)
        _save(figure, path)


def latencies(path: Path, found: Sequence[Series], kind: str, names: Sequence[str], title: str) -> None:
    """Latency by percentile, in HdrHistogram's form: the axis stretches the slowest few."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.2))
        tint = colours(names)
        for series in found:
            histogram = series.histogram(kind)
            if histogram.count:
                # A percentile beyond the number of samples would only repeat the maximum.
                shown = [p for p in PERCENTS if histogram.count * (1 - p / 100) >= 1]
                axes.plot([1 / (1 - p / 100) for p in shown],
                          [histogram.percentile(p) * 1e3 for p in shown],
                          color=tint[series.endpoint], label=series.endpoint, linewidth=1.6)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = [(2.0, "50%"), (10.0, "90%"), (100.0, "99%"), (1000.0, "99.9%"), (10_000.0, "99.99%")]
        axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
        axes.minorticks_off()
        axes.set_xlim(1, 12_000)
        axes.set_xlabel("share of requests that took no longer")
        axes.set_ylabel("milliseconds")
        axes.set_title(title)
        axes.legend(frameon=False)
        _save(figure, path)


def by_count(
    path: Path, lines: dict[str, list[tuple[int, float, float]]], names: Sequence[str], title: str, unit: str
) -> None:
    """p50 (full) and p99 (dotted) of a figure in seconds by a count, a line per server, both axes log."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.2))
        tint = colours(names)
        for name, points in lines.items():
            counts = [count for count, _, _ in points]
            axes.plot(
                counts, [p50 * 1e3 for _, p50, _ in points], "o-", color=tint[name], label=f"{name} p50"
            )
            axes.plot(
                counts, [p99 * 1e3 for _, _, p99 in points], "s:", color=tint[name], label=f"{name} p99"
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(unit)
        axes.set_ylabel("milliseconds")
        axes.set_title(title)
        axes.legend(frameon=False, fontsize=7)
        _save(figure, path)


def bars(
    path: Path, groups: dict[str, dict[str, float]], names: Sequence[str], title: str, unit: str
) -> None:
    """Bars by group and server: `groups[group][server]`."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.0))
        tint = colours(names)
        step = 0.8 / len(names)
        for column, found in enumerate(groups.values()):
            for name, value in found.items():
                place = column + step * (names.index(name) - (len(names) - 1) / 2)
                axes.bar(place, value, step * 0.92, color=tint[name])
                axes.text(place, value, f"{value:,.3g}", ha="center", va="bottom", fontsize=7)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_ylabel(unit)
        axes.set_title(title)
        _legend(axes, names, tint)
        _save(figure, path)


Panel = tuple[str, dict[str, list[float]], bool]  # unit, figures by name, whether the axis is log


def over_time(path: Path, times: Sequence[float], panels: Sequence[Panel], unit: str) -> None:
    """Figures over the same time, panels in two columns."""
    with mpl.rc_context(_STYLE):
        rows = (len(panels) + 1) // 2
        figure, grid = plt.subplots(rows, 2, figsize=(10.0, 1.9 * rows), sharex=True, squeeze=False)
        for axes, (of, lines, log) in zip(grid.flat, panels, strict=False):
            for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
                axes.plot(times, values, color=colour, label=name, linewidth=1.0)
            if log:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.set_ylabel(of)
            axes.legend(frameon=False, fontsize=7, loc="best")
        for axes in grid[-1]:
            axes.set_xlabel(unit)
        figure.tight_layout()
        _save(figure, path)


def _legend(axes: Axes, names: Sequence[str], tint: dict[str, str]) -> None:
    handles = [Patch(color=tint[name]) for name in names]
    place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    axes.legend(handles, list(names), frameon=False, fontsize=7, ncols=min(4, len(names)), **place)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, bbox_inches="tight", dpi=144, metadata=metadata)
    plt.close(figure)


def front(
    path: Path, panels: Sequence[tuple[str, Sequence[str], dict[str, list[float]]]], *, dark: bool
) -> None:
    """README's chart: bars by server in groups, a panel for each figure, on a light or dark page."""
    ink = "#e6edf3" if dark else "#1f2328"
    style = _STYLE | {
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "savefig.transparent": True,
    }
    with mpl.rc_context(style):
        figure, grid = plt.subplots(1, len(panels), figsize=(10.0, 3.2), squeeze=False)
        for axes, (title, groups, lines) in zip(grid[0], panels, strict=True):
            step = 0.8 / len(lines)
            for number, (name, values) in enumerate(lines.items()):
                places = [group + step * (number - (len(lines) - 1) / 2) for group in range(len(groups))]
                axes.bar(places, values, step * 0.92, color=COLOURS[number], label=name)
            axes.set_xticks(range(len(groups)), list(groups))
            axes.set_title(title)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.grid(visible=False, axis="x")
        names = list(panels[0][2])
        handles = [Patch(color=COLOURS[number]) for number in range(len(names))]
        place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, -0.08), "labelcolor": ink}
        figure.legend(handles, names, frameon=False, ncols=len(names), **place)
        figure.tight_layout()
        _save(figure, path)
