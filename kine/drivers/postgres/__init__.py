"""The PostgreSQL driver, also for servers that speak its protocol: YugabyteDB, CockroachDB, Aurora."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager

from kine.drivers.base import Log, Options
from kine.drivers.postgres.database import PostgresDatabase
from kine.drivers.postgres.dsn import Dsn, parse
from kine.drivers.postgres.read_only_view import PostgresInspector, open_view
from kine.drivers.sql.log import SqlLog
from kine.identity import kerberos, provider
from kine.identity.base import Provider

log = logging.getLogger(__name__)


def connect(endpoint: str, options: Options) -> Log:
    dsn, credentials = _read(endpoint, options)
    if dsn.written_database:
        log.info("the database is %s", dsn.shown)
    return SqlLog(PostgresDatabase(dsn, options, credentials), options)


def inspect(endpoint: str, options: Options) -> AbstractAsyncContextManager[PostgresInspector]:
    return open_view(*_read(endpoint, options))


def _read(endpoint: str, options: Options) -> tuple[Dsn, Provider | None]:
    dsn = parse(endpoint, options)
    if dsn.kerberos is not None:
        return dsn, kerberos.provider(dsn.kerberos, options.identity_timeout)
    if options.identity_provider:
        return dsn, provider(options.identity_provider, options.identity_timeout)
    return dsn, None
