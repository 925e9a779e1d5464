"""PostgreSQL, and what speaks its protocol: YugabyteDB, CockroachDB, Aurora."""

from __future__ import annotations

from kine.drivers.base import Log, Options
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.postgres.dsn import parse
from kine.drivers.sql.log import SqlLog
from kine.identity import provider


def connect(endpoint: str, options: Options) -> Log:
    credentials = provider(options.identity_provider) if options.identity_provider else None
    return SqlLog(PostgresDatabase(parse(endpoint, options), options, credentials))
