"""MySQL and MariaDB, and what speaks their protocol: Aurora, Galera, TiDB."""

from __future__ import annotations

from kine.drivers.base import Log, Options
from kine.drivers.mysql.database import MysqlDatabase
from kine.drivers.mysql.dsn import parse
from kine.drivers.mysql.view import view
from kine.drivers.sql.log import SqlLog
from kine.identity import provider

__all__ = ["connect", "view"]


def connect(endpoint: str, options: Options) -> Log:
    credentials = provider(options.identity_provider) if options.identity_provider else None
    return SqlLog(MysqlDatabase(parse(endpoint, options), options, credentials))
