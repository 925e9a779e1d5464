"""PostgreSQL, and what speaks its protocol: YugabyteDB, CockroachDB, Aurora."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from kine.drivers.base import Log, Options
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.postgres.dsn import Dsn, parse
from kine.drivers.postgres.view import PostgresView, looked_at
from kine.drivers.sql.log import SqlLog
from kine.identity import kerberos, provider
from kine.identity.base import Provider


def connect(endpoint: str, options: Options) -> Log:
    dsn, credentials = _read(endpoint, options)
    return SqlLog(PostgresDatabase(dsn, options, credentials))


def view(endpoint: str, options: Options) -> AbstractAsyncContextManager[PostgresView]:
    return looked_at(*_read(endpoint, options))


def _read(endpoint: str, options: Options) -> tuple[Dsn, Provider | None]:
    dsn = parse(endpoint, options)
    credentials = provider(options.identity_provider) if options.identity_provider else None
    if dsn.kerberos is not None:
        credentials = kerberos.provider(dsn.kerberos)
    return dsn, credentials
