"""Text and tables of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Peer, Results, Series

SATURATED = 0.85  # share of CPU time from which a driver process's figures are doubtful


@dataclass(frozen=True, slots=True)
class Report:
    """Several results as one: rounds of one scenario, server and settings are joined."""

    runs: list[Results]
    peers: list[Peer]
    series: list[Series]

    @property
    def names(self) -> list[str]:
        return [peer.name for peer in self.peers]

    def of(self, scenario: str) -> list[Series]:
        """The series of a scenario with at least one round, in the servers' order."""
        found = [s for s in self.series if s.scenario == scenario and s.rounds]
        return sorted(found, key=lambda s: self.names.index(s.endpoint))

    def scenarios(self) -> list[str]:
        present = {s.scenario for s in self.series}
        return [name for name in SCENARIOS if name in present]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table whose first `left` columns are text, the others figures."""
    rule = ["---" if number < left else "---:" for number in range(len(head))]
    return [*("| " + " | ".join(row) + " |" for row in (head, rule, *rows)), ""]


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mebibytes(size: float | None) -> str:
    return "" if size is None else f"{size / (1 << 20):,.0f}"


def percent(share: float) -> str:
    return "0" if share == 0 else f"{share * 100:.2g}%"


def about(report: Report) -> list[str]:
    """The section on the machine, the servers and their commands."""
    lines = []
    for run in report.runs:
        machine = run.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
        lines += [
            f"Measured {run.started} on {machine['cores']} cores of {machine['cpu']}, "
            f"{machine['memory_bytes'] / (1 << 30):.0f} GiB memory, Linux {machine['kernel']}, "
            f"Python {machine['python']} ({packages}); fdatasync of 4 KiB takes "
            f"{milliseconds(machine['fsync_seconds'])} ms; load average before "
            f"{machine['load_average'][0]}. Driver and servers share the machine. Repeat with:",
            "",
            "```",
            run.command,
            "```",
            "",
        ]
    rows = [
        [peer.name, peer.version, peer.durability or "not stated", f"`{peer.command or peer.url}`"]
        for peer in report.peers
    ]
    return [*lines, *table(("server", "etcd version it reports", "durability", "started as"), rows, left=4)]


def overview(report: Report) -> list[str]:
    """The table with one row per scenario and server."""
    rows = []
    for name in report.scenarios():
        if name in ("memory", "coldstart"):
            continue
        base = 0.0
        for series in report.of(name):
            rate, low, high = series.rate()
            if series.endpoint == report.names[0]:
                base = rate
            kind = "watch lag" if "watch lag" in series.kinds() and name != "mixed" else series.kinds()[0]
            latency = series.histogram(kind)
            rows.append(
                [
                    name,
                    series.endpoint,
                    f"{rate:,.0f}",
                    f"{low:,.0f}-{high:,.0f}",
                    f"{rate / base:.2f}" if base else "",
                    kind,
                    milliseconds(latency.percentile(50)),
                    milliseconds(latency.percentile(99)),
                    percent(series.figure("error_rate") or 0.0),
                ]
            )
    head = (
        "scenario", "server", "rate /s", "spread", f"to {report.names[0]}", "latency of", "p50 ms",
        "p99 ms", "errors",
    )  # fmt: skip
    lines = ["## Overview", "", "Rates are the median of the rounds. Ratios above 1 are better.", ""]
    lines += table(head, rows, left=2)
    skipped = [s for s in report.series if s.skipped]
    lines += [f"- {s.scenario} of {s.endpoint} was not measured: {s.skipped}" for s in skipped]
    return [*lines, ""] if skipped else lines


def scenario(found: Sequence[Series]) -> list[str]:
    """The section of one scenario: heading, settings and full figures."""
    first = found[0]
    used = {k: v for k, v in first.settings.items() if v and k != "note"}
    lines = [f"### {first.title}", ""]
    lines += [", ".join(f"{name} {value:,g}" if isinstance(value, int | float) else f"{name} {value}"
                        for name, value in used.items()) + f", {len(first.rounds)} rounds.", ""]  # fmt: skip
    if first.settings.get("note"):
        lines += [f"{first.settings['note']}.", ""]
    rows = []
    for series in found:
        for number, kind in enumerate(series.kinds()):
            histogram = series.histogram(kind)
            figures = histogram.summary()
            lead = [series.endpoint, kind, f"{histogram.count:,}"]
            rows.append(
                [
                    *lead,
                    *(milliseconds(figures[name]) for name in ("p50", "p90", "p99", "p99.9", "max")),
                    *(_server(series) if number == 0 else [""] * 4),
                ]
            )
    head = ("server", "of", "count", "p50 ms", "p90", "p99", "p99.9", "max", "server CPU", "us/request",
            "server MiB", "driver CPU")  # fmt: skip
    lines += table(head, rows, left=2)
    if any("delivered" in one.extra for one in first.rounds):
        lines += _delivery(found)
    lines += _faults(found)
    return lines


def _server(series: Series) -> list[str]:
    cpu, each = series.figure("server_cpu"), series.figure("server_cpu_per_request")
    return [
        "" if cpu is None else f"{cpu:.2f}",
        "" if each is None else f"{each * 1e6:,.0f}",
        mebibytes(series.figure("server_rss")),
        f"{series.figure('driver_cpu') or 0.0:.2f}",
    ]


def _delivery(found: Sequence[Series]) -> list[str]:
    rows = []
    for series in found:
        total = {
            name: sum(one.extra.get(name, 0.0) for one in series.rounds)
            for name in ("writes", "events", "missing")
        }
        expected = total["events"] + total["missing"]
        share = total["events"] / expected if expected else 1.0
        rows.append(
            [
                series.endpoint,
                f"{total['writes']:,.0f}",
                f"{total['events']:,.0f}",
                f"{total['missing']:,.0f}",
                f"{share * 100:.4g}%",
                percent(series.figure("error_rate") or 0.0),
            ]
        )
    return table(("server", "writes", "events", "missing", "delivered", "write errors"), rows)


def _faults(found: Sequence[Series]) -> list[str]:
    """Errors, unsent requests, and saturated driver processes."""
    lines = []
    for series in found:
        counts: dict[str, int] = {}
        for one in series.rounds:
            for error, n in (*one.errors.items(), *one.outside.items()):
                counts[error] = counts.get(error, 0) + n
        lines += [f"- {series.endpoint}: {n:,} x {error}" for error, n in counts.items()]
        late = sum(one.unstarted for one in series.rounds)
        if late:
            lines.append(f"- {series.endpoint}: {late:,} requests were due and never sent")
        busiest = max(one.driver_busiest for one in series.rounds)
        if busiest > SATURATED:
            lines.append(
                f"- {series.endpoint}: a driver process computed {busiest * 100:.0f}% of its time; "
                "the server may be faster than shown"
            )
    return [*lines, ""] if lines else []


def cold_start(found: Sequence[Series]) -> list[str]:
    rows = [
        [
            series.endpoint,
            f"{series.figure('first_get_seconds') or 0.0:.2f}",
            f"{series.histogram('first get').max / 1e9:.2f}",
            f"{series.figure('cpu_seconds') or 0.0:.2f}",
            mebibytes(series.figure("server_rss")),
            f"{series.figure('stop_seconds') or 0.0:.2f}",
        ]
        for series in found
    ]
    head = ("server", "first get s", "slowest s", "CPU s", "MiB then", "stop s")
    return [
        "From the start of the process to its first answered get; the files are in the page cache.",
        "",
        *table(head, rows),
    ]


def memory(found: Sequence[Series]) -> list[str]:
    rows = [
        [
            series.endpoint,
            mebibytes(series.figure("rss_empty")),
            mebibytes(series.figure("rss_loaded")),
            mebibytes(series.figure("rss_restarted")),
            f"{series.figure('rss_per_key') or 0.0:,.0f}",
            mebibytes(series.figure("disk_bytes")),
            f"{series.rate()[0]:,.0f}",
        ]
        for series in found
    ]
    head = ("server", "empty MiB", "loaded MiB", "restarted MiB", "bytes a key", "disk MiB", "keys/s loading")
    return ["Resident memory of the server's processes.", "", *table(head, rows)]


def method(report: Report) -> list[str]:
    """The section on how to read the figures."""
    costs = [
        one.driver_cpu_per_request
        for series in report.series
        for one in series.rounds
        if series.scenario in SCENARIOS and SCENARIOS[series.scenario].kind in ("create", "update", "get")
        if one.driver_cpu_per_request
    ]
    cost = f" (here {min(costs) * 1e6:.0f} to {max(costs) * 1e6:.0f} us)" if costs else ""
    return [
        "## How it was measured",
        "",
        "Rounds are interleaved: each scenario runs once against every server, then again. Requests have",
        "the shapes that kube-apiserver sends; every answer is checked. In a closed loop each client waits",
        "for its answer before it sends again, and a latency runs from the socket to the socket. With a",
        "rate, requests are due whatever the server does, and a latency runs from when the request was due.",
        "Watch lag runs from sending the write to the arrival of its event, matched by revision. The driver",
        f"has its own HTTP/2 client; its CPU per request{cost} and its share of the",
        "machine are listed, since it takes them from the servers. Percentiles are exact to 0.8%.",
    ]
