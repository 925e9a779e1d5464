"""Fixtures of the shared suite: which servers it runs against, and how a test reaches them.

A test that takes `client`, `server` or `backend` runs once for every kind of server, on every transport, that
is available here; `--backend` and `--transport` choose among them. One process serves a whole run: tests keep
apart by key prefix, and start from the revision they find. A test that must own its process takes
`own_server`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import secret_scan
from tests.cleanup_at_exit import ENDINGS
from tests.client import Client, WatchStream
from tests.remote.etcd_clusters import Etcds
from tests.rerun_failures import Failures
from tests.servers import Backend, Capabilities, backends, etcd

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

    from tests.servers.process import Instance

BACKENDS = backends()
DEFAULT_OPS = 6000

_prefix_numbers = count(1)

# A run of the suite is the same each time; HYPOTHESIS_PROFILE=explore draws new examples.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@dataclass
class Counts:
    """How many operations the random tests have run, printed at the end of the run."""

    operations: dict[str, int] = field(default_factory=dict)

    def add(self, test: str, operations: int) -> None:
        self.operations[test] = self.operations.get(test, 0) + operations


COUNTS = pytest.StashKey[Counts]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kine", "servers under test")
    kinds = sorted({backend.kind for backend in BACKENDS})
    transports = sorted({backend.transport for backend in BACKENDS if backend.transport})
    group.addoption(
        "--backend", action="append", choices=kinds, help="run on this kind of server only (repeatable)"
    )
    group.addoption(
        "--transport", action="append", choices=transports, help="run on this transport only (repeatable)"
    )
    group.addoption(
        "--ops",
        type=int,
        default=DEFAULT_OPS,
        help="operations the model test, and the differential test, each run about (default %(default)s)",
    )
    group.addoption(
        "--fuzz",
        type=int,
        default=5,
        help="messages of each RPC that are made and mutated (default %(default)s)",
    )
    group.addoption(
        "--fuzz-seed", type=int, default=1, help="what they are made from; 0: a new one (default %(default)s)"
    )
    group.addoption(
        "--hostile",
        type=int,
        default=1,
        help="times the short form's load that a misbehaving client sends (default %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A script's background jobs ignore SIGINT, and all processes that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[COUNTS] = Counts()
    config.pluginmanager.register(Failures(config))
    for kind in config.getoption("--backend") or []:
        if not any(backend.kind == kind for backend in chosen(config)):
            reasons = {backend.missing() for backend in BACKENDS if backend.kind == kind} - {""}
            raise pytest.UsageError(f"--backend {kind}: {'; '.join(reasons) or 'not on that transport'}")


def chosen(config: pytest.Config) -> list[Backend]:
    """The backends to run on: those requested that can run here."""
    kinds, transports = config.getoption("--backend"), config.getoption("--transport")
    return [
        backend
        for backend in BACKENDS
        if (not kinds or backend.kind in kinds)
        and (not transports or not backend.transport or backend.transport in transports)
        and not backend.missing()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        file = metafunc.module.__name__.rpartition(".")[2]
        named = metafunc.config.getoption("--backend")
        available = [
            backend
            for backend in chosen(metafunc.config)
            if named or not backend.subset or file in backend.subset
        ]
        metafunc.parametrize(
            "backend",
            [_where_it_runs(backend, metafunc.definition) for backend in available],
            ids=lambda backend: backend.name,
            scope="session",
        )


NAMES = {name for backend in BACKENDS for name in (backend.name, backend.kind)}


def _where_it_runs(backend: Backend, test: pytest.Function) -> Backend | ParameterSet:
    """The backend as a parameter: left to `make test-engines` unless the marker `quick_on` names it."""
    marker = test.get_closest_marker("quick_on")
    if marker is None:
        return backend
    if unknown := set(marker.args) - NAMES:
        raise pytest.UsageError(f"{test.nodeid}: quick_on knows no backend {', '.join(sorted(unknown))}")
    if {backend.name, backend.kind} & set(marker.args):
        return backend
    return pytest.param(backend, marks=pytest.mark.engines)


@pytest.hookimpl(trylast=True)  # session fixtures end first
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the servers; a parallel run's worker sends its counts to the process that prints them."""
    ENDINGS.close()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["operations"] = session.config.stash[COUNTS].operations


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    config, output = node.config, getattr(node, "workeroutput", {})  # type: ignore[attr-defined]
    for test, operations in output.get("operations", {}).items():
        config.stash[COUNTS].add(test, operations)


def pytest_report_header(config: pytest.Config) -> str:
    absent = [f"{backend.name} ({reason})" for backend in BACKENDS if (reason := backend.missing())]
    names = [backend.name for backend in chosen(config)]
    return f"servers: {', '.join(names)}" + (f"; not available: {', '.join(absent)}" if absent else "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[COUNTS].operations
    if counts:
        told = "; ".join(f"{test}: {operations} operations" for test, operations in counts.items())
        terminalreporter.write_line(told)


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counts:
    return pytestconfig.stash[COUNTS]


@pytest.fixture(scope="session", autouse=True)
def _secrets_are_kept() -> Iterator[None]:
    """Fails if any secret given to the run's servers is in one of their logs."""
    yield
    found = secret_scan.leaks()
    assert not found, "\n".join(["told by a server:", *found])


@pytest.fixture(scope="session")
def capabilities(backend: Backend) -> Capabilities:
    return backend.capabilities


@pytest.fixture(scope="session")
def server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The run's shared process of this kind."""
    instance = backend.start(tmp_path_factory.mktemp(backend.name), progress_interval=1)
    yield instance
    secret_scan.look_at(instance)
    assert instance.running, f"the server ended during the run: {instance.log.read_text()[-3000:]}"
    instance.stop()


@pytest.fixture
def client(server: Instance) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def watch(client: Client) -> Iterator[WatchStream]:
    with client.watch() as stream:
        yield stream


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> bytes:
    """A key prefix that no other test uses, in Kubernetes' style, with its final slash."""
    name = re.sub(r"\W+", "-", request.node.name)
    return f"/registry/{name}/{next(_prefix_numbers)}/".encode()


StartOwn = Callable[..., "Instance"]


@pytest.fixture
def own_server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartOwn]:
    """Starts processes that only this test uses; takes a directory's name and the options of `Start`."""
    base = tmp_path_factory.mktemp("own")
    started: list[Instance] = []

    def start(name: str = "data", **options: object) -> Instance:
        instance = backend.start(base / name, **options)  # type: ignore[arg-type]
        started.append(instance)
        return instance

    yield start
    for instance in started:
        if instance.running:
            instance.kill()


@pytest.fixture
def etcds(tmp_path: Path) -> Iterator[Etcds]:
    """Starts etcds that only this test uses."""
    if reason := etcd.missing():
        pytest.skip(reason)
    started = Etcds(tmp_path)
    yield started
    started.end()


Needs = Callable[[str], None]


@pytest.fixture
def needs(backend: Backend) -> Needs:
    """Skips the test where the server's capabilities say that it is meant to behave otherwise."""

    def needs(capability: str) -> None:
        if not getattr(backend.capabilities, capability):
            pytest.skip(f"{backend.name}: not {capability.replace('_', ' ')}")

    return needs
