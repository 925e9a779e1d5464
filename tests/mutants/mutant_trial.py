"""Trial of one mutant at a time in a copy of the tree, with the tests that execute its line."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.coverage_map import Map, Test, copy_tree
from tests.mutants.mutation_operators import Mutant, mutants

# The mutated files, by package; a folder stands for all files below it.
PACKAGES = {
    "store": ("kine/store",),
    "drivers": ("kine/drivers",),
    "etcd": ("kine/etcd",),
    "transport": ("kine/transport",),
    "identity": ("kine/identity",),
    "config": (
        "kine/config.py",
        "kine/flag_values.py",
        "kine/address.py",
        "kine/go_flags.py",
        "kine/tls.py",
        "kine/tls_file_check.py",
    ),
    "forktools": ("forktools",),
}
_MOST_SECONDS = 40.0  # of one mutant's tests, by their recorded times
_MOST_TESTS = 80
_TEST_TIMEOUT = 60  # seconds: a fault may hang
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    mutant: Mutant
    status: str  # caught, survived, or untested: no test executes the line
    by: str = ""  # the test that failed first
    slow: bool = False  # is that one marked so?
    tests: int = 0
    seconds: float = 0.0


def package_of(file: str) -> str | None:
    for package, places in PACKAGES.items():
        if any(file == place or file.startswith(f"{place}/") for place in places):
            return package
    return None


def every(root: Path) -> dict[str, list[Mutant]]:
    """All mutants, by package."""
    found: dict[str, list[Mutant]] = defaultdict(list)
    for package, places in PACKAGES.items():
        for place in places:
            path = root / place
            for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                if not source.name.endswith("_pb2.py"):
                    found[package] += mutants(root, str(source.relative_to(root)))
    return found


def sample(all_mutants: dict[str, list[Mutant]], number: int, seed: int) -> list[Mutant]:
    """A sample of `count` mutants, each package weighted by the root of its size; at most one per line."""
    dice = random.Random(seed)
    weights = {package: len(its) ** 0.5 for package, its in all_mutants.items()}
    chosen: list[Mutant] = []
    for package, its in all_mutants.items():
        share = round(number * weights[package] / sum(weights.values()))
        by_line: dict[tuple[str, int], list[Mutant]] = defaultdict(list)
        for mutant in its:
            by_line[mutant.file, mutant.line].append(mutant)
        lines = dice.sample(sorted(by_line), min(share, len(by_line)))
        chosen += [dice.choice(by_line[line]) for line in lines]
    dice.shuffle(chosen)
    return chosen


def ordered(tests: Iterable[Test]) -> list[Test]:
    """The most informative per second first; one of each function before the second of any."""
    by_function: dict[str, list[Test]] = defaultdict(list)
    for test in tests:
        by_function[test.name.partition("[")[0]].append(test)
    for its in by_function.values():
        its.sort(key=lambda test: test.seconds)
    functions = sorted(
        by_function.values(), key=lambda its: (its[0].slow, (0.2 + its[0].seconds) * (100 + its[0].lines))
    )
    return [test for turn in zip_longest(*functions) for test in turn if test is not None]


def chosen(tests: Iterable[Test], seconds: float) -> list[Test]:
    found: list[Test] = []
    spent = 0.0
    for test in ordered(tests):
        if found and (spent + test.seconds > seconds or len(found) == _MOST_TESTS):
            continue
        found.append(test)
        spent += test.seconds
    return sorted(found, key=lambda test: test.slow)


class Trial:
    """A copy of the tree to which one mutant at a time is applied."""

    def __init__(self, root: Path, copy: Path) -> None:
        self.copy = copy
        self._writes = 0
        copy_tree(root, copy)
        # The process runs the program of the copied tree.
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.forked_pytest"],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._warm.kill()
        self._warm.communicate()

    def run(self, mutant: Mutant, tests: Sequence[Test]) -> Outcome:
        path = self.copy / mutant.file
        source = path.read_bytes()
        began = time.monotonic()
        self._write(path, mutant.applied(source))
        try:
            caught, by = self.fails(tests)
        finally:
            self._write(path, source)
        slow = any(test.slow for test in tests if test.name == by)
        status = "caught" if caught else "survived"
        return Outcome(mutant, status, by, slow, len(tests), time.monotonic() - began)

    def _write(self, path: Path, source: bytes) -> None:
        """Writes the file with a new modification time, which invalidates cached bytecode."""
        path.write_bytes(source)
        self._writes += 1
        os.utime(path, (time.time() + 10 * self._writes,) * 2)

    def fails(self, tests: Sequence[Test]) -> tuple[bool, str]:
        """Whether one of the tests fails, and which first."""
        names = [test.name for test in tests]
        limit = 60 + 4 * sum(test.seconds for test in tests)
        listed, output = self.copy / ".tests", self.copy / ".output"
        while names:
            listed.write_text("\n".join(names))
            code = self._pytest(
                "-x", "-q", "-rfE", "--tb=no", "--no-header", "-p", "no:cacheprovider",
                f"--timeout={_TEST_TIMEOUT}", f"@{listed}", within=limit, output=output,
            )  # fmt: skip
            if code in (0, 5):
                return False, ""
            if code == "timeout":
                return True, "(the time limit)"
            said = output.read_text(errors="replace")
            if gone := [name for name in names if code == 4 and name in said]:
                names = [name for name in names if name not in gone]  # no such test any more
                continue
            failed = _FAILED.findall(said)
            return True, failed[0] if failed else f"(pytest ended with {code})"
        return False, ""

    def _pytest(self, *arguments: str, within: float, output: Path) -> int | str:
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        self._warm.stdin.write(json.dumps([arguments, str(output), within]) + "\n")
        self._warm.stdin.flush()
        return json.loads(self._warm.stdout.readline())  # type: ignore[no-any-return]


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def trials(
    root: Path,
    wanted: Sequence[Mutant],
    recorded: Map,
    workers: int,
    until: float = float("inf"),
    seconds: float = _MOST_SECONDS,
) -> Iterator[Outcome]:
    """Yields outcomes as they come; mutants not started by `until` (`time.monotonic`) are left out."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        free: SimpleQueue[Trial] = SimpleQueue()
        for number in range(workers):
            free.put(Trial(root, Path(scratch, str(number))))
        sources = {mutant.file: (root / mutant.file).read_text() for mutant in wanted}

        def one(mutant: Mutant) -> Outcome | None:
            if time.monotonic() > until:
                return None
            tests = chosen(
                recorded.tests_of(mutant.file, sources[mutant.file], mutant.line, mutant.function), seconds
            )
            if not _compiles(mutant.applied(sources[mutant.file].encode())):
                return None
            if not tests:
                return Outcome(mutant, "untested")
            trial = free.get()
            try:
                return trial.run(mutant, tests)
            finally:
                free.put(trial)

        with ThreadPoolExecutor(workers) as pool:
            for outcome in pool.map(one, wanted):
                if outcome is not None:
                    yield outcome
        while not free.empty():
            free.get().close()


def really_failing(root: Path, names: Iterable[str], recorded: Map) -> set[str]:
    """Those of the tests that fail without a mutant, too: what they caught proves nothing."""
    tests = {test.name: test for test in recorded.tests}
    failing: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trial = Trial(root, Path(scratch, "sound"))
        left = [tests[name] for name in sorted(set(names)) if name in tests]
        while left:
            fails, by = trial.fails(left)
            if not fails or by not in {test.name for test in left}:
                break
            failing.add(by)
            left = [test for test in left if test.name != by]
        trial.close()
    return failing
