"""Servers that bench starts: their recipes, and starting, stopping and restarting them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING

from bench import etcd_requests
from bench.databases import DURABILITY, KINDS, Database, DatabaseError
from bench.databases import start as start_database
from bench.endpoint import Endpoint, parse
from bench.http2 import ProtocolError
from bench.process_usage import hide_password
from bench.sync_client import CallError, SyncClient

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class PeerError(Exception):
    """A server that did not start; the text gives the reason and the path of its log."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to start a server.

    `{port}`, `{peer_port}` and `{dir}` in the command are replaced. The name of a kind of database in
    `bench.databases`, such as `{postgres}`, is replaced by the endpoint of a new one.
    """

    name: str
    command: tuple[str, ...]
    durability: str = ""

    @property
    def databases(self) -> list[str]:
        return [kind for kind in KINDS if any(f"{{{kind}}}" in word for word in self.command)]

    @property
    def safety(self) -> str:
        return self.durability or "; ".join(DURABILITY[kind] for kind in self.databases)

    def filled(
        self, port: int, peer_port: int, directory: Path, databases: Mapping[str, Database]
    ) -> list[str]:
        values = {"{port}": str(port), "{peer_port}": str(peer_port), "{dir}": str(directory)}
        values |= {f"{{{kind}}}": database.endpoint for kind, database in databases.items()}
        words = []
        for word in self.command:
            for name, value in values.items():
                word = word.replace(name, value)
            words.append(word)
        return words


def _etcd(name: str, durability: str, *more: str) -> Recipe:
    return Recipe(
        name,
        (
            _etcd_binary(), "--name", "bench", "--data-dir", "{dir}/etcd", "--log-level", "error",
            "--listen-client-urls", "http://127.0.0.1:{port}",
            "--advertise-client-urls", "http://127.0.0.1:{port}",
            "--listen-peer-urls", "http://127.0.0.1:{peer_port}",
            "--initial-advertise-peer-urls", "http://127.0.0.1:{peer_port}",
            "--initial-cluster", "bench=http://127.0.0.1:{peer_port}",
            "--quota-backend-bytes", str(8 << 30), "--max-txn-ops", "128", *more,
        ),
        durability,
    )  # fmt: skip


def _etcd_binary() -> str:
    beside = Path(sys.executable).with_name("etcd")
    return str(beside) if beside.exists() else shutil.which("etcd") or "etcd"


def _kine(name: str, dsn: str, durability: str, *more: str) -> Recipe:
    return Recipe(
        name,
        (
            sys.executable, "-m", "kine", "--listen-address", "127.0.0.1:{port}",
            "--metrics-bind-address", "0", "--endpoint", dsn, *more,
        ),
        durability,
    )  # fmt: skip


def recipes() -> dict[str, Recipe]:
    """The known servers by name."""
    known = (
        _etcd("etcd", "fsync of the write-ahead log before a write is answered (etcd's default)"),
        _etcd("etcd-nofsync", "no fsync (--unsafe-no-fsync): survives kill -9, not power loss",
              "--unsafe-no-fsync"),
        _kine("kine-sqlite", "sqlite://{dir}/state.db",
              "SQLite WAL, synchronous=NORMAL (default): survives kill -9, not power loss"),
        _kine("kine-sqlite-full", "sqlite://{dir}/state.db?_synchronous=FULL",
              "SQLite WAL, synchronous=FULL: fsync before a write is answered, as etcd"),
        _kine("kine-sqlite-2", "sqlite://{dir}/state.db",
              "SQLite WAL, synchronous=NORMAL (default): survives kill -9, not power loss",
              "--workers", "2"),
        *(_kine(f"kine-{kind}", f"{{{kind}}}", "") for kind in KINDS),
        *(_kine(f"kine-{kind}-2", f"{{{kind}}}", "", "--workers", "2") for kind in KINDS),
        _kine("kine-memory", "memory://", "none: in memory"),
    )  # fmt: skip
    return {recipe.name: recipe for recipe in known}


def recipe(text: str) -> Recipe:
    """The recipe of a known server, or one from `NAME=COMMAND`. Raises PeerError."""
    name, equals, command = text.partition("=")
    if equals:
        words = tuple(shlex.split(command))
        if not name or not words:
            raise PeerError(f"{text!r}: give it as NAME=COMMAND with {{port}} and {{dir}} in the command")
        if not any("{port}" in word for word in words):
            raise PeerError(f"{name}: its command must contain {{port}}, the port to listen on")
        return Recipe(name, words)
    try:
        return recipes()[name]
    except KeyError:
        raise PeerError(
            f"no server {name!r} is known; there are {', '.join(recipes())}, or give NAME=COMMAND"
        ) from None


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Running:
    """A server process started by bench, with its directory and endpoint."""

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe = recipe
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, self._peer_port = free_port(), free_port()
        self.endpoint: Endpoint = parse(f"{recipe.name}=http://127.0.0.1:{self.port}")
        self.log = directory / "server.log"
        self.databases: dict[str, Database] = {}  # these keep running when the server is restarted
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when the server is not running."""
        return self._process.pid if self._process is not None else 0

    @property
    def pids(self) -> list[int]:
        """The ids of the server's process and of its databases' processes."""
        return [
            self.pid,
            *(process.pid for database in self.databases.values() for process in database.processes),
        ]

    @property
    def command(self) -> str:
        """The command as in the recipe, without this machine's paths and passwords."""
        first = Path(self.recipe.command[0]).name
        words = ["python" if first.startswith("python") else first, *self.recipe.command[1:]]
        return " ".join(hide_password(word) for word in words)

    def launch(self) -> float:
        """Starts the process. Returns its start time; it may not answer yet. Raises PeerError."""
        for kind in self.recipe.databases:
            if kind not in self.databases:
                try:
                    self.databases[kind] = start_database(kind, self.directory / kind, free_port())
                except DatabaseError as bad:
                    raise PeerError(f"{self.recipe.name}: {bad}") from bad
        words = self.recipe.filled(self.port, self._peer_port, self.directory, self.databases)
        self._log_file = self.log.open("ab")
        started = monotonic()
        try:
            self._process = subprocess.Popen(
                words,
                stdout=self._log_file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                preexec_fn=_die_with_parent,
            )
        except OSError as bad:
            raise PeerError(f"{self.recipe.name}: cannot run {words[0]}: {bad.strerror}") from bad
        return started

    def wait_for_answer(self, key: bytes = b"/registry/health", timeout: float = READY_SECONDS) -> bytes:
        """The first answer of a linearizable get of `key`. Raises PeerError."""
        deadline = monotonic() + timeout
        last = "it refused connections"
        while monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise PeerError(f"{self.recipe.name} ended at once; {self._last_words()}")
            try:
                with SyncClient(self.endpoint) as client:
                    return client.call(
                        etcd_requests.RANGE, etcd_requests.get(key), max(0.1, deadline - monotonic())
                    )
            except (OSError, ProtocolError, CallError) as bad:
                last = str(bad)
                sleep(0.002)
        raise PeerError(
            f"{self.recipe.name} gave no answer within {timeout:g} s: {last}; {self._last_words()}"
        )

    def stop(self) -> float:
        """Ends the process by SIGTERM, SIGKILL after STOP_SECONDS. Returns the seconds it took."""
        process, self._process = self._process, None
        if process is None:
            return 0.0
        started = monotonic()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        if self._log_file is not None:
            self._log_file.close()
        return monotonic() - started

    def disk_bytes(self) -> int:
        """The size of its directory on disk."""
        return sum(f.stat().st_blocks * 512 for f in self.directory.rglob("*") if f.is_file())

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f"its log ({self.log}) ends: {lines[-1][:300]}"
        return f"its log is {self.log}"


def _die_with_parent() -> None:
    # Runs in the child: servers must not outlive a killed driver.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Peers:
    """Context manager for servers started for a run in one directory; stops and removes all at the end."""

    def __init__(self, base: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-peers-", dir=base))
        self.running: list[Running] = []

    def start(self, recipe: Recipe) -> Running:
        """Starts a server on an empty directory and waits for its first answer. Raises PeerError."""
        directory = self.directory / f"{recipe.name}-{len(self.running)}"
        running = Running(recipe, directory)
        self.running.append(running)
        running.launch()
        running.wait_for_answer()
        return running

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self.running:
            running.stop()
            for database in running.databases.values():
                database.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
