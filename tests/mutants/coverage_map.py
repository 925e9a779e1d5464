"""Map from lines to the tests that execute them: a test run under coverage, server processes included.

Loaded as a plugin (`-p tests.mutants.coverage_map`), it names the current test to every traced process, and
records each test's outcome, its time and whether it is slow.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mutants.mutation_operators import functions

_ENDING = 15.0  # seconds, for a run whose time is up
_PATIENCE = 2.0  # seconds, until every process knows which test is under way; a paused one never does


# ---- in pytest's process


class _Told:
    def __init__(self, data: Path) -> None:
        self._now = Path(os.environ["KINE_MUTANTS_TEST"])
        self._heard = Path(os.environ["KINE_MUTANTS_HEARD"])
        self._data = data
        self._tests: dict[str, dict[str, object]] = {}

    def _tell(self, test: str) -> None:
        partial = self._now.with_suffix(".partial")
        partial.write_text(test)
        partial.replace(self._now)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not all(self._knows(path, test) for path in self._heard.iterdir()):
            time.sleep(0.002)

    def _knows(self, path: Path, test: str) -> bool:
        try:
            if path.read_text() == test:
                return True
            state = Path("/proc", path.name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            path.unlink(missing_ok=True)  # of a process that has ended
            return True
        return state in "ZT"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._tell(item.nodeid)
        self._tests[item.nodeid] = {
            "slow": item.get_closest_marker("slow") is not None,
            "seconds": 0.0,
            "passed": True,
            "called": False,
        }
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            self._tell("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self._tests[report.nodeid]
        test["seconds"] += report.duration  # type: ignore[operator]
        test["passed"] = bool(test["passed"]) and report.passed
        if report.when == "call":
            test["called"] = True

    def pytest_sessionfinish(self) -> None:
        (self._data / f"tests-{os.getpid()}.json").write_text(json.dumps(self._tests))


def pytest_configure(config: pytest.Config) -> None:
    if "KINE_MUTANTS_DATA" in os.environ:
        config.pluginmanager.register(_Told(Path(os.environ["KINE_MUTANTS_DATA"])))


# ---- outside


def record(tree: Path, data: Path, arguments: Sequence[str], seconds: float | None = None) -> int:
    """Runs pytest once in `tree` and adds its traces to `data`. Returns pytest's exit code."""
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        now = Path(scratch, "test")
        now.write_text("")
        Path(scratch, "heard").mkdir()
        tracing = tree / "tests" / "mutants" / "tracing"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tracing), str(tree)]),
            "KINE_MUTANTS_DATA": str(data),
            "KINE_MUTANTS_ROOT": str(tree),
            "KINE_MUTANTS_TEST": str(now),
            "KINE_MUTANTS_HEARD": str(now.with_name("heard")),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.coverage_map", *arguments]
        process = subprocess.Popen(command, cwd=tree, env=environment)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then saves its results so far
            try:
                return process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


@dataclass(slots=True)
class Test:
    name: str
    seconds: float
    slow: bool
    lines: int = 0  # the lines it executes: the fewer, the more specific it is to each


@dataclass(slots=True)
class Map:
    tests: list[Test] = field(default_factory=list)
    lines: dict[str, dict[int, list[int]]] = field(
        default_factory=dict
    )  # by file and line: indexes into `tests`
    sources: dict[str, str] = field(default_factory=dict)  # as they were recorded

    def tests_of(self, file: str, source: str, line: int, function: str) -> list[Test]:
        """The tests that execute the line; for a line newer than the record, those of its function."""
        recorded = self.lines.get(file, {})
        old = self._was(file, source, line)
        places = set(recorded.get(old, ())) if old is not None else set()
        if not places:
            for name, first, last in functions(self.sources.get(file, "").encode()):
                if name == function:
                    places = {test for number in range(first, last + 1) for test in recorded.get(number, ())}
        return [self.tests[place] for place in places]

    def _was(self, file: str, source: str, line: int) -> int | None:
        before = self.sources.get(file, "")
        if before == source:
            return line
        matcher = difflib.SequenceMatcher(None, source.splitlines(), before.splitlines(), autojunk=False)
        for block in matcher.get_matching_blocks():
            if block.a < line <= block.a + block.size:
                return line - block.a + block.b
        return None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tests = [[test.name, round(test.seconds, 3), test.slow, test.lines] for test in self.tests]
        path.write_text(json.dumps({"tests": tests, "lines": self.lines, "sources": self.sources}))

    @classmethod
    def load(cls, path: Path) -> Map:
        read = json.loads(path.read_text())
        lines = {
            file: {int(line): tests for line, tests in its.items()} for file, its in read["lines"].items()
        }
        return cls([Test(*test) for test in read["tests"]], lines, read["sources"])


def gathered(tree: Path, data: Path) -> Map:
    """The map from the recorded runs, without tests that did not pass."""
    made = Map()
    places: dict[str, int] = {}
    for path in sorted(data.rglob("tests-*.json")):
        for name, told in json.loads(path.read_text()).items():
            if told["passed"] and told.get("called", True) and name not in places:
                places[name] = len(made.tests)
                made.tests.append(Test(name, told["seconds"], told["slow"]))
    lines: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for path in data.rglob("data.*"):
        for name, file, numbers in _traced(path):
            if (place := places.get(name)) is not None and Path(file).is_relative_to(tree):
                by_line = lines[str(Path(file).relative_to(tree))]
                for number in numbers:
                    by_line[number].add(place)
    counts: dict[int, int] = defaultdict(int)
    for by_line in lines.values():
        for its in by_line.values():
            for place in its:
                counts[place] += 1
    for place, count in counts.items():
        made.tests[place].lines = count
    made.lines = {
        file: {number: sorted(its) for number, its in by_line.items()} for file, by_line in lines.items()
    }
    made.sources = {file: (tree / file).read_text() for file in made.lines}
    return made


def _traced(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    from coverage.numbits import numbits_to_nums

    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT context.context, file.path, numbits FROM line_bits"
                " JOIN context ON context.id = context_id JOIN file ON file.id = file_id"
            ).fetchall()
    except sqlite3.Error:  # of a process that was killed while it wrote
        return
    for name, file, numbits in rows:
        yield name, file, numbits_to_nums(numbits)


def copy_tree(root: Path, target: Path) -> None:
    """Copies what the tests need of the repository, without its history; links are kept."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        source = root / name
        if source.is_file() or source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
