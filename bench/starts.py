"""What a start costs: time until `Kine available at`, and memory then; the ways to start take turns.

    python -m bench.starts --rounds 11 --executable build/kine-amd64 --go ~/go/bin/kine

writes docs/history/starts.json and the table of the page beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.machine_info import describe

RESULTS = Path(__file__).parents[1] / "docs" / "history" / "starts.json"
PAGE = RESULTS.with_name("2026-11-30-starts.md")
BEGIN, END = "<!-- starts: written by `python -m bench.starts` -->\n", "<!-- end of starts -->\n"
SERVING = b"Kine available at"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to start: a program, and the executable's unpack directory, a new one each time if `first`."""

    name: str
    command: tuple[str, ...]
    memory: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts of one way, in order: seconds until it served, seconds of CPU time, and bytes of memory."""

    elapsed: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    private: list[int] = field(default_factory=list)  # without pages of files


def measure(way: Way, unpacked: Path, found: Starts) -> None:
    """One start on an empty database."""
    with tempfile.TemporaryDirectory(prefix="kine-start-", dir="/var/tmp") as directory:
        place = "memory" if way.memory else str(Path(directory) if way.first else unpacked)
        command = [*way.command, f"--endpoint=sqlite://{directory}/state.db"]
        command += ["--listen-address=127.0.0.1:0", "--metrics-bind-address=0"]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, "KINE_UNPACK_DIR": place}, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if SERVING in line:
                break
        else:
            raise RuntimeError(f"{way.name} did not start: {b''.join(log).decode()}")
        found.elapsed.append(time.perf_counter() - started)
        seen = psutil.Process(process.pid)
        found.processor.append(sum(seen.cpu_times()[:2]))
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        sizes = {
            name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.split()
        }
        found.resident.append(int(sizes["VmRSS"]) * 1024)
        found.private.append((int(sizes["RssAnon"]) + int(sizes["RssShmem"])) * 1024)
        process.terminate()
        process.communicate()


def table(results: dict[str, Any]) -> str:
    """The table of medians for the page."""
    names = list(results["ways"])
    rows = [
        ("elapsed time", "elapsed", 1, ".2f", "s"),
        ("processor time", "processor", 1, ".2f", "s"),
        ("resident memory", "resident", 1e6, ".0f", "MB"),
        ("of which not files' pages", "private", 1e6, ".0f", "MB"),
    ]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for title, key, unit, digits, sign in rows:
        values = (median(results["ways"][name][key]) / unit for name in names)
        lines.append(f"| {title} | {' | '.join(f'{value:{digits}} {sign}' for value in values)} |")
    machine = results["machine"]
    loads = f"{results['load_before']:.1f} before, {machine['load_average'][0]:.1f} after"
    taken = f"{results['rounds']} rounds, {results['taken']}, {machine['cores']} cores, load average {loads}."
    return "\n".join([f"Medians of {taken}", "", *lines, ""])


def page(text: str, results: dict[str, Any]) -> str:
    """The page's text with the table of these results."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table(results) + END + rest.partition(END)[2]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=11)
    options.add_argument("--go", help="Go kine's program")
    options.add_argument("--executable", help="ours")
    chosen = options.parse_args()
    ways = [Way("package", (sys.executable, "-m", "kine"))]
    if chosen.executable:
        program = (os.path.abspath(chosen.executable),)
        ways += [
            Way("executable", program),
            Way("executable, first start", program, first=True),
            Way("executable, from memory", program, memory=True),
        ]
    if chosen.go:
        ways.insert(0, Way("Go kine", (os.path.abspath(chosen.go),)))
    found = {way.name: Starts() for way in ways}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="kine-unpacked-", dir="/var/tmp") as unpacked:
        for way in ways:
            measure(way, Path(unpacked), Starts())  # warms the page cache, and unpacks
        for number in range(chosen.rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                measure(way, Path(unpacked), found[way.name])
    results = {
        "taken": datetime.now(UTC).isoformat(timespec="minutes"),
        "rounds": chosen.rounds,
        "load_before": load,
        "machine": describe(),
        "ways": {name: asdict(starts) for name, starts in found.items()},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
