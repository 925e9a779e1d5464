"""Environment of documented commands: stand-ins for the servers that a page names, a fork's repository."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.client import Client
from tests.databases import postgres as postgres_binary
from tests.databases.process import free_port
from tests.docs.blocks import Block
from tests.forktools.conftest import IDENTITY
from tests.forktools.git_history import History
from tests.remote.etcd_clusters import Etcds
from tests.servers import postgres
from tests.servers.etcd import missing as etcd_missing
from tests.servers.kine import start_kine

BIN = Path(sys.executable).parent
OLD, NEW = "v0.16.3", "v0.16.4"


@dataclass
class Place:
    """A directory in which commands run, and stand-ins for the names that the pages use."""

    directory: Path
    environment: dict[str, str]
    rewrite: list[Callable[[str], str]] = field(default_factory=list)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        for change in self.rewrite:
            command = change(command)
        if "until Ctrl-C" in command:
            command = f"timeout -s INT 3 {command}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == 124 and command.startswith("timeout"):
            done.returncode = 0
        return done


@pytest.fixture
def place(tmp_path: Path) -> Place:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "KINE_", "GITHUB_"))
    }
    home = tmp_path / "home"
    home.mkdir()
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}
    return Place(tmp_path, {**kept, **git, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)})


@pytest.fixture
def served(place: Place, tmp_path: Path) -> Iterator[Place]:
    """A kine that replaces the one at its default addresses."""
    metrics = f"127.0.0.1:{free_port()}"
    flags = (f"--metrics-bind-address={metrics}", "--metrics-enable-profiling")
    server = start_kine(f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path / "server", flags=flags)
    place.environment |= {"ETCDCTL_ENDPOINTS": server.address, "KINE_ENDPOINT": f"http://{server.address}"}
    place.rewrite.append(
        lambda text: (
            text.replace("127.0.0.1:2379", server.address)
            .replace("127.0.0.1:8080", metrics)
            .replace("seconds=10", "seconds=1")
        )
    )
    yield place
    server.stop()


def _files(place: Place) -> Callable[[str], str]:
    """Each `save FILE` writes its own file; other commands use the last one."""
    count = 0

    def change(command: str) -> str:
        nonlocal count
        count += "snapshot save" in command
        return re.sub(r"\bFILE\b", str(place.directory / f"snapshot{count}"), command)

    return change


@pytest.fixture
def with_postgres(tmp_path: Path) -> Callable[[str], str]:
    """A database that a kine has used instead of `postgres://user@host/kine`; for `restore` an empty one."""
    if reason := postgres_binary.missing():
        pytest.skip(reason)
    running = postgres.database_server()
    used = running.endpoint(running.new_database())
    start_kine(used, "http2", tmp_path / "on-postgres").stop()

    def change(command: str) -> str:
        endpoint = running.endpoint(running.new_database()) if "restore" in command else used
        return command.replace("postgres://user@host/kine", f"'{endpoint}'")

    return change


@pytest.fixture
def with_etcd(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    if reason := etcd_missing():
        pytest.skip(reason)
    etcds = Etcds(tmp_path)
    server = etcds.etcd()
    with Client(server.address) as client:
        client.put(b"/greeting", b"hello")
    yield lambda text: text.replace("http://etcd:2379", f"http://{server.address}").replace(
        "sqlite:///data/kine.db", f"sqlite://{tmp_path / 'moved.db'}"
    )
    for one in etcds.started:
        one.kill()


@pytest.fixture
def fork(place: Place, tmp_path: Path) -> Place:
    """A fork with a line of v0.16.3 and two releases, upstream's v0.16.4, and a remote."""
    history = History.start(tmp_path / "fork")
    history.commit("feat: the application", {"app.py": "one\n"})
    history.tag(OLD, "main")
    history.commit("fix: the application", {"app.py": "two\n"})
    history.tag(NEW, "main")
    settings = 'upstream = "trunk"\nreleased-before-records = {}\n'
    history.commit("chore: settings of the fork", {".github/forktools.toml": settings})
    line = f"release/vcluster/{OLD}"
    history.branch(line, OLD)
    history.commit("feat(fork): log in with IAM", {"iam.py": "1\n"}, on=line)
    history.tag(f"{OLD}.vcluster.0", line)
    history.commit("fix(fork): ask for the token in time", {"iam.py": "2\n"}, on=line)
    history.tag(f"{OLD}.vcluster.1", line)
    history.branch("work", "main")
    history.commit("docs(fork): a page", {"docs/a.md": "1\n"}, on="work")
    history.git("checkout", "--quiet", "--force", "work")
    origin = tmp_path / "origin.git"
    history.git("clone", "--quiet", "--mirror", ".", str(origin))
    history.git("remote", "add", "origin", str(origin))
    history.git("fetch", "--quiet", "origin")
    history.git("update-ref", "refs/forktools/resolutions", "HEAD")
    place.directory = history.path
    return place


@pytest.fixture
def arranged(request: pytest.FixtureRequest, place: Place) -> Callable[[Block], Place]:
    """The place for a block, with the servers that its marker names."""

    def arrange(block: Block) -> Place:
        fixtures = {"kine": "served", "fork": "fork"}
        for name in block.servers:
            if name in fixtures:
                request.getfixturevalue(fixtures[name])
            else:
                place.rewrite.append(request.getfixturevalue(f"with_{name}"))
        place.rewrite.append(_files(place))
        return place

    return arrange


@pytest.fixture
def table(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The table as kine creates it, with a row that was updated."""
    path = tmp_path / "state.db"
    server = start_kine(f"sqlite://{path}", "http2", tmp_path / "server")
    with Client(server.address) as client:
        client.put(b"/secret", b"plain")
        client.put(b"/secret", b"encrypted")
    server.stop()
    with closing(sqlite3.connect(path)) as connection:
        yield connection
