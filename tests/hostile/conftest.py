"""Fixtures and options of the hostile tests: how much is sent, and servers for one client to attack."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

from tests.databases.process import free_port
from tests.hostile.harness import Target
from tests.hostile.hostile_messages import Sent, corpus
from tests.servers.kine import ROOT, TRANSPORTS, serving
from tests.servers.process import start as start_process

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--fuzz-seed")) or random.SystemRandom().randrange(1, 2**32)


@pytest.fixture(scope="session")
def sent(seed: int, pytestconfig: pytest.Config) -> list[Sent]:
    return corpus(seed, pytestconfig.getoption("--fuzz"))


StartTarget = Callable[..., Target]


@pytest.fixture(params=TRANSPORTS)
def start_target(
    request: pytest.FixtureRequest, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[StartTarget]:
    """Starts counting servers, on each transport: `start_target("--flag=…", endpoint="…")`.

    `constants` overrides constants of modules, by their full names, with values that a test can wait for.
    Without an endpoint the database is an SQLite file, the same one for all servers of a test. The end of the
    test stops them, and checks that none exited before.
    """
    wanted = pytestconfig.getoption("--transport")
    if wanted and request.param not in wanted:
        pytest.skip("another --transport is asked for")
    started: list[Target] = []

    def start(*flags: str, endpoint: str = "", constants: Mapping[str, object] | None = None) -> Target:
        metrics = f"127.0.0.1:{free_port()}"
        command = [
            sys.executable,
            "-m",
            "tests.hostile.counting_server",
            "--listen-address=127.0.0.1:0",
            f"--endpoint={endpoint or f'sqlite://{tmp_path}/data/state.db'}",
            f"--transport={request.param}",
            f"--metrics-bind-address={metrics}",
            "--log-format=json",
            *flags,
        ]
        environment = {"PYTHONPATH": str(ROOT), "HOSTILE_CONSTANTS": json.dumps(constants or {})}
        instance = start_process(command, tmp_path, serving, environment)
        started.append(Target(instance, request.param, metrics, scale=pytestconfig.getoption("--hostile")))
        return started[-1]

    yield start
    for target in started:
        target.close()
        if target.instance.running:
            target.instance.kill()


@pytest.fixture
def target(start_target: StartTarget) -> Iterator[Target]:
    """A server with its defaults, which must survive the test and log no error of its own."""
    running = start_target()
    yield running
    assert running.instance.running, f"the server has ended: {running.instance.log.read_text()[-3000:]}"
    errors = [line for line in running.instance.log.read_text().splitlines() if _is_error(line)]
    assert errors == []


def _is_error(line: str) -> bool:
    try:
        return json.loads(line)["severity"] == "error"
    except (ValueError, KeyError, TypeError):
        return "Traceback" in line
