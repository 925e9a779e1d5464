"""Table of the results on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from bench.results import Series


def show(all_series: list[Series]) -> None:
    """Prints a table of the figures to standard output."""
    table = Table(show_edge=False)
    for column in ("scenario", "server", "rate /s", "spread", "ratio"):
        table.add_column(column, justify="left" if column in ("scenario", "server") else "right")
    for column in ("of", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "server CPU", "driver CPU"):
        table.add_column(column, justify="left" if column == "of" else "right")
    first: dict[str, float] = {}
    for series in all_series:
        if not series.rounds:
            table.add_row(series.scenario, series.endpoint, series.skipped)
            continue
        rate, low, high = series.rate()
        base = first.setdefault(series.scenario, rate)
        cpu = series.figure("server_cpu")
        for number, kind in enumerate(series.kinds()):
            figures = series.histogram(kind).summary()
            lead = [
                series.scenario, series.endpoint, f"{rate:,.1f}", f"{low:,.0f}-{high:,.0f}",
                f"{rate / base:.2f}" if base else "",
            ]  # fmt: skip
            driver, each = series.figure("driver_cpu") or 0.0, series.figure("driver_cpu_per_request") or 0.0
            tail = [
                f"{(series.figure('error_rate') or 0.0) * 100:.2f}%",
                "" if cpu is None else f"{cpu:.2f}",
                f"{driver:.2f} ({each * 1e6:.0f} us)",
            ]
            table.add_row(
                *(lead if number == 0 else [""] * 5),
                kind,
                *(f"{figures[name] * 1e3:.3f}" for name in ("p50", "p90", "p99", "p99.9", "max")),
                *(tail if number == 0 else []),
            )
    console = Console()
    if not console.is_terminal:  # a pipe or log has no width limit
        console.width = 200
    console.print(table)


def errors(all_series: list[Series]) -> list[str]:
    """The errors of the run, one a line."""
    found: dict[str, int] = {}
    for series in all_series:
        for one in series.rounds:
            for error, n in (*one.errors.items(), *one.outside.items()):
                line = f"{series.scenario} {series.endpoint}: {error}"
                found[line] = found.get(line, 0) + n
    return [f"{line} ({n} times)" for line, n in found.items()]
