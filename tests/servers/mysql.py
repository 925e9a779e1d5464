"""Our server on MariaDB or MySQL: one database server for the whole run, a database for each directory."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from tests.databases import mysql
from tests.servers import Backend, Capabilities
from tests.servers.kine import TRANSPORTS, start_kine
from tests.servers.kine import missing as kine_missing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

_databases: dict[Path, str] = {}


@cache
def database_server() -> mysql.Mysql:
    return mysql.Mysql()


def start(
    directory: Path,
    *,
    transport: str,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    # `durable` changes nothing: it is kine that is killed, not the database.
    server = database_server()
    database = _databases.setdefault(directory, server.new_database())
    return start_kine(
        server.endpoint(database), transport, directory, progress_interval=progress_interval, flags=flags
    )


def missing(transport: str) -> str:
    return mysql.missing() or kine_missing(transport)


# What grpcio does does not depend on the database, and is shown on SQLite: here the most important of it.
BRIEF = frozenset({"test_kubernetes", "test_watch", "test_kill"})

BACKENDS = [
    Backend(
        kind="mysql",
        transport=transport,
        # Another kine's rows may come between, and a conflict with them uses up an id.
        capabilities=Capabilities(snapshot=False, holds_key=bytes.isascii, live_size=False),
        missing=partial(missing, transport),
        start=partial(start, transport=transport),
        subset=frozenset() if transport == "http2" else BRIEF,
    )
    for transport in TRANSPORTS
]
