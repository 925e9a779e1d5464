"""Do the tests notice the faults that engineers make? `make mutants`, or `python -m tests.mutants --help`.

`record` notes which tests execute which line (.mutants/map.json); `run` puts a seeded sample of faults into
the code, one at a time, and runs the tests that execute its line; `changed` does so with the lines changed
since the last tag, within some minutes; `docs` writes the score of the last runs into docs/development.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.coverage_map import Map, copy_tree, gathered, record
from tests.mutants.mutant_trial import PACKAGES, Outcome, every, package_of, really_failing, sample, trials

ROOT = Path(__file__).parents[2]
MAP = ROOT / ".mutants" / "map.json"
RESULT = Path(__file__).with_name("result.json")
EQUIVALENT = Path(__file__).with_name("equivalent.json")
PAGE = ROOT / "docs" / "development.md"
BEGIN, END = "<!-- mutants: written by `python -m tests.mutants docs` -->", "<!-- mutants: end -->"

_ONE_SERVER = ("--backend", "sqlite", "--transport", "http2", "--ops", "600")
QUICK = "not engines and not slow"
# The tests about each package; they run in parallel.
SUITES = {
    "store": ("tests/store", "tests/sqlite"),
    "drivers": ("tests/drivers", "tests/remote", "tests/commands"),
    "etcd": ("tests/etcd", "tests/compatibility"),
    "transport": ("tests/transport",),
    "identity": ("tests/identity",),
    "config": ("tests/unit",),
    "forktools": ("tests/forktools",),
}


def recorded_anew(
    packages: Iterable[str], options: Sequence[str], workers: int, seconds: float | None = None
) -> Map:
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree, data = Path(scratch, "tree"), Path(scratch, "data")
        copy_tree(ROOT, tree)

        def one(package: str) -> int:
            return record(tree, data / package, [*SUITES[package], *_ONE_SERVER, *options], seconds)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, packages))
        return gathered(tree, data)


def equivalent() -> dict[str, str]:
    """Mutants whose change has no observable effect, with the reason."""
    return dict(json.loads(EQUIVALENT.read_text()))


def told(outcome: Outcome) -> str:
    mutant = outcome.mutant
    by = f" by {outcome.by}" if outcome.by else ""
    cost = f"{outcome.tests} tests, {outcome.seconds:.0f} s"
    return f"{outcome.status}{by} ({cost}): line {mutant.line}, {mutant.name}"


def run(number: int, seed: int, workers: int, minutes: float, packages: Sequence[str]) -> int:
    if not MAP.exists():
        recorded_anew(PACKAGES, ["-m", QUICK], workers).save(MAP)
    recorded = Map.load(MAP)
    wanted = sample({name: its for name, its in every(ROOT).items() if name in packages}, number, seed)
    known = equivalent()
    until = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    for outcome in trials(ROOT, [one for one in wanted if one.name not in known], recorded, workers, until):
        outcomes.append(outcome)
        print(told(outcome), flush=True)
    unsound = really_failing(ROOT, (one.by for one in outcomes if one.status == "caught"), recorded)
    for name in sorted(unsound):
        print(f"fails without any fault, so what it caught is left out: {name}")
    outcomes = [one for one in outcomes if one.by not in unsound]
    skipped = [one.name for one in wanted if one.name in known]
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[str(seed)] = summary(outcomes, skipped)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results[str(seed)], indent=1))
    return 0


def summary(outcomes: Sequence[Outcome], equivalents: Sequence[str]) -> dict[str, object]:
    packages: dict[str, dict[str, int]] = defaultdict(lambda: {"run": 0, "caught": 0, "by_quick_tests": 0})
    for outcome in outcomes:
        counts = packages[package_of(outcome.mutant.file) or "others"]
        counts["run"] += 1
        counts["caught"] += outcome.status == "caught"
        counts["by_quick_tests"] += outcome.status == "caught" and not outcome.slow
    survivors = sorted(f"{one.status}: {one.mutant.name}" for one in outcomes if one.status != "caught")
    return {
        "packages": {name: packages[name] for name in PACKAGES if name in packages},
        "equivalent": len(equivalents),
        "survivors": survivors,
    }


# ---- what has changed


def changed_lines() -> dict[str, set[int]]:
    """By file, the lines that are new since the last tag; without one, since the start of the branch."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    since = git("describe", "--tags", "--abbrev=0") or git("merge-base", "origin/main", "HEAD")
    if since in ("", git("rev-parse", "HEAD")):
        since = git("rev-parse", "--verify", "--quiet", "HEAD~30") or git(
            "rev-list", "--max-parents=0", "HEAD"
        )
    lines: dict[str, set[int]] = defaultdict(set)
    file = ""
    for line in git("diff", "--unified=0", "--no-color", since.split()[0], "--", "*.py").splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ ").removeprefix("b/")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first = int(hunk[1])
            lines[file] |= set(range(first, first + int(hunk[2] or 1)))
    return lines


def changed(minutes: float, seed: int, workers: int) -> int:
    """Never fails: time and chance decide how many mutants it tries."""
    began = time.monotonic()
    lines = changed_lines()
    by_package = {
        package: [one for one in its if one.line in lines.get(one.file, ())]
        for package, its in every(ROOT).items()
    }
    by_package = {package: its for package, its in by_package.items() if its}
    if not by_package:
        print("mutants: no line of the code has changed")
        return 0
    recorded = (
        Map.load(MAP) if MAP.exists() else recorded_anew(by_package, ["-m", QUICK], workers, 60 * minutes / 2)
    )
    known = equivalent()
    wanted = [
        one for one in sample(by_package, sum(map(len, by_package.values())), seed) if one.name not in known
    ]
    outcomes = []
    for outcome in trials(ROOT, wanted, recorded, workers, began + 60 * minutes, seconds=10.0):
        outcomes.append(outcome)
        if outcome.status != "caught":
            print(told(outcome), flush=True)
    caught = sum(one.status == "caught" for one in outcomes)
    print(f"mutants: {caught} of {len(outcomes)} tried were caught, of {len(wanted)} in the changed lines")
    return 0


# ---- the page


def block() -> str:
    results = json.loads(RESULT.read_text())
    rows = ["| seed | package | faults | caught | by tests that are not slow |", "|---|---|---|---|---|"]
    for seed, its in results.items():
        total = {"run": 0, "caught": 0, "by_quick_tests": 0}
        for package, counts in its["packages"].items():
            total = {key: total[key] + counts[key] for key in total}
            rows.append(_row(seed, package, counts))
        rows.append(_row(seed, "all", total))
    return "\n".join([BEGIN, *rows, END])


def _row(seed: str, package: str, counts: dict[str, int]) -> str:
    number = max(1, counts["run"])
    shares = (f"{100 * counts[key] / number:.0f}%" for key in ("caught", "by_quick_tests"))
    return f"| {seed} | {package} | {counts['run']} | {' | '.join(shares)} |"


def docs() -> int:
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + block() + text[text.index(END) + len(END) :])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("what", choices=["record", "run", "changed", "docs"])
    parser.add_argument("--number", type=int, default=300, help="faults to try (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for `changed` (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="only this one (repeatable)")
    parser.add_argument("--slow", action="store_true", help="`record` slow tests, too")
    chosen = parser.parse_args(arguments)
    packages = chosen.package or list(PACKAGES)
    if chosen.what == "record":
        marks = "not engines" if chosen.slow else QUICK
        recorded_anew(packages, ["-m", marks], chosen.workers).save(MAP)
        return 0
    if chosen.what == "run":
        return run(chosen.number, chosen.seed, chosen.workers, 1e6, packages)
    if chosen.what == "changed":
        return changed(chosen.minutes, chosen.seed, chosen.workers)
    return docs()


if __name__ == "__main__":
    sys.exit(main())
