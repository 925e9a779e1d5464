"""kine on PostgreSQL behind PgBouncer in transaction mode: no session lasts beyond a transaction."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.databases import pgbouncer
from tests.servers import Backend, Capabilities, text_without_nul
from tests.servers.kine import start_kine
from tests.servers.postgres import database_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

_databases: dict[Path, str] = {}


@cache
def bouncer() -> pgbouncer.PgBouncer:
    return pgbouncer.PgBouncer(database_server())


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    server = database_server()
    database = _databases.setdefault(directory, server.new_database())
    endpoint = server.endpoint(database, port=bouncer().port)
    return start_kine(endpoint, "http2", directory, progress_interval=progress_interval, flags=flags)


BACKENDS = [
    Backend(
        kind="postgres-pgbouncer",
        transport="",
        capabilities=Capabilities(holds_key=text_without_nul, holds_long_keys=False),
        missing=pgbouncer.missing,
        start=start,
        # Only the connection differs from PostgreSQL itself: these files cover all of its use.
        subset=frozenset({"test_kubernetes", "test_txn", "test_watch"}),
    )
]
