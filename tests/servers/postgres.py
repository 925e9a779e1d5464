"""kine on PostgreSQL: one database server for the whole run, a database for each directory."""

from __future__ import annotations

from functools import cache

from tests.databases import postgres
from tests.servers import Capabilities, text_without_nul
from tests.servers.kine import on_server


@cache
def database_server() -> postgres.Postgres:
    return postgres.Postgres()


# Another kine's rows may come between, and a conflict with them consumes an id.
CAPABILITIES = Capabilities(holds_key=text_without_nul, holds_long_keys=False)

BACKENDS = on_server("postgres", database_server, postgres.missing, CAPABILITIES)
