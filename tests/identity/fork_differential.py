"""Differential test of Go kine, as the fork builds it, and this kine: started alike, outcomes compared.

KINE_TEST_FORK names the fork's program; docs/auth.md says how it is built. Without it nothing is compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.databases.process import free_port
from tests.servers.kine import ROOT, program

NAMES = ("Go kine", "this one")
SERVES, EXITS, TRIES_ON = "serves", "exits", "tries on"

_SERVING = re.compile(r"Kine available at|msg=serving")
_TRYING = re.compile(r"Failed to ping database|waiting for the database")
_PATIENCE = 120.0  # seconds
_OURS_TO_SET = ("AWS_", "PG", "KRB5", "KINE_")
_DOCS = ROOT / "docs" / "auth.md"


def missing() -> str:
    named = os.environ.get("KINE_TEST_FORK", "")
    if not named:
        return "KINE_TEST_FORK does not name the fork's program (docs/auth.md says how it is built)"
    return "" if Path(named).is_file() else f"KINE_TEST_FORK: no file {named}"


@dataclass(frozen=True)
class Case:
    name: str
    endpoint: str  # with {port}, {database} and the test's other fields
    go_kine: str  # the outcome
    ours: str = ""  # kine's outcome, where it differs
    row: str = ""  # the start of the row in docs/auth.md about the difference
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def expected(self) -> dict[str, str]:
        return dict(zip(NAMES, (self.go_kine, self.ours or self.go_kine), strict=True))


@dataclass(frozen=True)
class Run:
    """One program with one endpoint. `end` is how its start ended."""

    end: str
    log: Path
    address: str


def listed(case: Case) -> bool:
    """Whether docs/auth.md lists the difference, or there is none."""
    return not case.ours or f"\n| {case.row}" in _DOCS.read_text()


def compare(
    case: Case,
    directory: Path,
    values: Mapping[str, Mapping[str, str]],
    observe: Callable[[str, Run], str],
    *,
    before: tuple[str, ...] = (),
) -> dict[str, str]:
    """The outcome of each program, by its name. `values` are those of the endpoint, flags and variables.

    `before` is prepended to the command. `observe(name, run)` is called while the program runs.
    """

    def one(name: str) -> str:
        named = values[name]
        command = [os.environ["KINE_TEST_FORK"]] if name == NAMES[0] else program()
        flags = [flag.format(**named) for flag in case.flags]
        environment = {variable: value.format(**named) for variable, value in case.environment.items()}
        log = directory / f"{name}.log".replace(" ", "-")
        with _running(
            [*before, *command, f"--endpoint={case.endpoint.format(**named)}", *flags], environment, log
        ) as run:
            return observe(name, run)

    with ThreadPoolExecutor() as threads:
        return dict(zip(NAMES, threads.map(one, NAMES), strict=True))


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Run]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS_TO_SET)}
    kept |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(log.parent), **environment}
    address = f"127.0.0.1:{free_port()}"
    command = [*command, f"--listen-address={address}", "--metrics-bind-address=0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=kept, cwd="/tmp"
        )
    try:
        yield Run(_ended(process, log), log, address)
    finally:
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        code = process.poll()
        said = log.read_text(errors="replace")
        if _SERVING.search(said):
            return SERVES
        if _TRYING.search(said):
            return TRIES_ON
        if code is not None:
            return EXITS
        time.sleep(0.05)
    return f"keeps silent: {log.read_text(errors='replace')[-500:]}"
