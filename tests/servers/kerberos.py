"""kine on PostgreSQL with Kerberos authentication."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.databases import kerberos_postgres
from tests.servers import Backend, Capabilities, text_without_nul
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

# The login method changes nothing above the connection: these files suffice, `--backend` runs the others too.
SUBSET = frozenset({"test_kubernetes", "test_put", "test_txn", "test_watch"})

_databases: dict[Path, str] = {}


@cache
def realm() -> kerberos_postgres.Kerberized:
    return kerberos_postgres.Kerberized()


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    database = _databases.setdefault(directory, realm().postgres.new_database())
    return start_kine(
        realm().by_keytab(database),
        "http2",
        directory,
        progress_interval=progress_interval,
        flags=flags,
        environment={"KRB5_CONFIG": str(realm().kdc.config)},
    )


BACKENDS = [
    Backend(
        kind="postgres-kerberos",
        transport="http2",
        capabilities=Capabilities(holds_key=text_without_nul, holds_long_keys=False),
        missing=kerberos_postgres.missing,
        start=start,
        subset=SUBSET,
    )
]
