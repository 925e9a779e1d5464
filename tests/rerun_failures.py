"""Retries of flaky tests: a failed test is run once more, alone, after the run.

`Failures` records what failed. `python -m tests.rerun_failures` runs each of those alone, prints the ones
that pass now as `flaky: NAME` with both outputs, and exits with 1 if one fails again or must not be repeated.

Never repeated: tests of durability, of linearizability and of policy verdicts, where one failure is a proof;
what fails when the run's servers stop, for that is about the whole run; and a run with many failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAILURES = "kine/failures"  # in pytest's cache
LIMIT = 8  # failures that may be chance; more are a defect
DECISIVE = "decisive"
DECISIVE_PATHS = (
    "tests/drivers/",
    "tests/etcd/test_differential.py",
    "tests/etcd/test_model.py",
    "tests/faults/",
    "tests/forktools/",
    "tests/moves/",
    "tests/release/test_own_gates.py",
    "tests/sqlite/",
    "tests/store/",
)


class Failures:
    """A pytest plugin that stores a run's failures in pytest's cache, in the process that reports them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: dict[str, dict[str, object]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.nodeid.startswith(DECISIVE_PATHS):
                item.add_marker(DECISIVE)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            seen = self._failed.setdefault(report.nodeid, {"decisive": False, "output": ""})
            seen["decisive"] |= DECISIVE in report.keywords or report.when == "teardown"
            seen["output"] += output_of(report)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if hasattr(self._config, "workerinput"):
            return  # a worker of a parallel run reports to the process that started it
        if cache := getattr(self._config, "cache", None):  # none in a repetition: the record is kept
            cache.set(FAILURES, {"exitstatus": int(exitstatus), "failed": self._failed})


def output_of(report: pytest.TestReport) -> str:
    sections = [f"--- {title} ---\n{text}" for title, text in report.sections]
    return "\n".join([f"[{report.when}]", report.longreprtext, *sections, ""])


def why_not_again(run: dict[str, object], failed: dict[str, dict[str, object]]) -> str:
    """Why the failures of this run cannot be chance; empty if they may be."""
    if run["exitstatus"] != pytest.ExitCode.TESTS_FAILED or not failed:
        return f"pytest ended with exit code {run['exitstatus']}, not with failed tests"
    if decisive := [name for name, failure in failed.items() if failure["decisive"]]:
        return "one failure is a proof: " + ", ".join(decisive)
    if len(failed) > LIMIT:
        return f"{len(failed)} tests failed, more than the {LIMIT} that may be chance"
    return ""


def main(root: Path, command: list[str]) -> int:
    """Repeats the failures recorded under `root`, each by `command` and its name; returns the exit code."""
    record = root / ".pytest_cache" / "v" / FAILURES
    if not record.exists():
        print("flaky: no record of a test run: nothing is repeated", file=sys.stderr)
        return 1
    run = json.loads(record.read_text())
    failed: dict[str, dict[str, object]] = run["failed"]
    if reason := why_not_again(run, failed):
        print(f"flaky: nothing is repeated: {reason}", file=sys.stderr)
        return 1
    again = 0
    for name, failure in failed.items():
        alone = subprocess.run([*command, name], cwd=root, capture_output=True, text=True, check=False)
        kind = "flaky" if alone.returncode == 0 else "failed twice"
        again += alone.returncode != 0
        print(f"{kind}: {name}\n=== first, among others ===\n{failure['output']}")
        print(f"=== then, alone ===\n{alone.stdout}{alone.stderr}")
    print(f"flaky: {len(failed)} repeated, {again} failed twice")
    return 1 if again else 0


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    sys.exit(main(here, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]))
