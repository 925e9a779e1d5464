"""The MySQL and MariaDB driver, also for servers that speak their protocol: Aurora, Galera, TiDB."""

from __future__ import annotations

from kine.drivers.base import Log, Options
from kine.drivers.mysql.database import MysqlDatabase
from kine.drivers.mysql.dsn import parse
from kine.drivers.mysql.read_only_view import inspect
from kine.drivers.sql.log import SqlLog
from kine.identity import provider

__all__ = ["connect", "inspect"]


def connect(endpoint: str, options: Options) -> Log:
    dsn = parse(endpoint, options)
    name = options.identity_provider
    credentials = provider(name, options.identity_timeout) if name else None
    return SqlLog(MysqlDatabase(dsn, options, credentials), options)
