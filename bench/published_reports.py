"""Parser for the reports in docs/performance, so that no page quotes a figure that was typed by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "docs" / "performance"
_TITLES = {"Create": "create", "Update": "update", "Get": "get", "List, whole": "list"}


@dataclass(frozen=True, slots=True)
class Rate:
    """The rate of one scenario on one server: right answers a second, and latencies in milliseconds."""

    per_second: str
    p50: str
    p99: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The figures of all reports, by scenario and server."""

    rates: dict[tuple[str, str], Rate] = field(default_factory=dict)
    cpu: dict[tuple[str, str], str] = field(default_factory=dict)  # microseconds of server CPU per call
    start: dict[str, str] = field(default_factory=dict)  # seconds until the first answer, 100,000 keys
    memory: dict[str, str] = field(default_factory=dict)  # MiB after that start
    durability: dict[str, str] = field(default_factory=dict)  # what a server does before it answers a write

    def rate(self, scenario: str, server: str) -> float:
        return number(self.rates[scenario, server].per_second)

    def times(self, scenario: str, server: str, other: str) -> str:
        """The speed of a server as a multiple of the other's; empty if the other makes under one a second."""
        base = self.rate(scenario, other)
        return f"{self.rate(scenario, server) / base:.1f}" if base else ""

    def survives(self, server: str) -> str:
        """The failures that an acknowledged write survives."""
        fsync = re.match(r".*fsync of the .* before a write is answered", self.durability[server])
        return "power loss" if fsync else "a killed process"


def number(figure: str) -> float:
    return float(figure.replace(",", ""))


def read(directory: Path = REPORTS) -> Stored:
    stored = Stored()
    for path in sorted(directory.glob("*.md")):
        title = heading = ""
        for line in path.read_text().splitlines():
            if line.startswith("#"):
                title = line.lstrip("# ")
                continue
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if not cells or set(cells[0]) <= {"-", " "}:
                continue
            if cells[0] in ("scenario", "server"):
                heading = line
            elif "| durability |" in heading and len(cells) == 4:
                stored.durability.setdefault(cells[0], cells[2])
            elif "| rate /s |" in heading and len(cells) == 9:
                stored.rates[cells[0], cells[1]] = Rate(cells[2], cells[6], cells[7])
            elif "| us/request |" in heading and title in _TITLES:
                stored.cpu[_TITLES[title], cells[0]] = cells[9]
            elif "| first get s |" in heading:
                stored.start[cells[0]] = cells[1]
            elif "| restarted MiB |" in heading:
                stored.memory[cells[0]] = cells[3]
    return stored
