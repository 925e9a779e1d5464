"""kine on its embedded default, SQLite, on each transport."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from tests.servers import Backend, Capabilities
from tests.servers.process import Instance
from tests.servers.process import start as start_process

ROOT = Path(__file__).parents[2]
_CHOOSING = threading.Lock()  # for the database of a directory: instances on one may start concurrently
TRANSPORTS = {"http2": "kine.transport.http2", "grpcio": "kine.transport.grpcio_server"}


def start_kine(
    endpoint: str,
    transport: str,
    directory: Path,
    *,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
    until: Callable[[str], str | None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Instance:
    """Starts `kine` on any endpoint; other backends' modules use it too.

    `until` replaces the log line that is waited for, by default the one with the address.
    """
    command = [
        *program(),
        "--listen-address=127.0.0.1:0",
        f"--endpoint={endpoint}",
        f"--transport={transport}",
        "--metrics-bind-address=0",
        "--log-format=json",
        "--compact-min-retain=0",  # so that a test's own compactions take effect
    ]
    if progress_interval:
        command.append(f"--watch-progress-notify-interval={int(progress_interval * 1000)}ms")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return start_process(
        [*command, *flags], directory, until or serving, {"PYTHONPATH": path, **(environment or {})}
    )


def program() -> list[str]:
    """The command for this tree's package, or the executable that KINE_TEST_EXECUTABLE names."""
    given = os.environ.get("KINE_TEST_EXECUTABLE")
    return [os.path.abspath(given)] if given else [sys.executable, "-m", "kine"]


def serving(line: str) -> str | None:
    if '"serving"' not in line:
        return None
    entry = json.loads(line)
    return str(entry["address"]) if entry.get("message") == "serving" else None


def missing(transport: str) -> str:
    wanted = ["kine.__main__", TRANSPORTS[transport]]
    absent = [module for module in wanted if find_spec(module) is None]
    return f"{', '.join(absent)} not in this tree" if absent else ""


def start_sqlite(
    directory: Path,
    *,
    transport: str,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    # `durable` changes nothing: SIGKILL loses nothing that is in the WAL, synced or not; power loss would.
    return start_kine(
        f"sqlite://{directory / 'state.db'}",
        transport,
        directory,
        progress_interval=progress_interval,
        flags=flags,
    )


class DatabaseServer(Protocol):
    """See `tests.databases`."""

    def new_database(self) -> str: ...

    def endpoint(self, database: str) -> str: ...


# grpcio's behaviour does not depend on the database, and is tested on SQLite: here only the most important.
BRIEF = frozenset({"test_kubernetes", "test_watch", "test_kill"})


def on_server(
    kind: str, server: Callable[[], DatabaseServer], without: Callable[[], str], capabilities: Capabilities
) -> list[Backend]:
    """`kine` on one database server for the whole run, with one database per directory."""
    databases: dict[Path, str] = {}

    def start(
        directory: Path,
        *,
        transport: str,
        durable: bool = False,
        progress_interval: float = 0,
        flags: tuple[str, ...] = (),
    ) -> Instance:
        # `durable` changes nothing: it is kine that is killed, not the database.
        with _CHOOSING:
            running = server()
            database = databases.setdefault(directory, running.new_database())
        return start_kine(
            running.endpoint(database), transport, directory, progress_interval=progress_interval, flags=flags
        )

    return [
        Backend(
            kind=kind,
            transport=transport,
            capabilities=capabilities,
            missing=lambda transport=transport: without() or missing(transport),
            start=partial(start, transport=transport),
            subset=frozenset() if transport == "http2" else BRIEF,
        )
        for transport in TRANSPORTS
    ]


BACKENDS = [
    Backend(
        kind="sqlite",
        transport=transport,
        capabilities=Capabilities(),
        missing=partial(missing, transport),
        start=partial(start_sqlite, transport=transport),
    )
    for transport in TRANSPORTS
]
