"""kine on MariaDB or MySQL: one database server for the whole run, a database for each directory."""

from __future__ import annotations

from functools import cache

from tests.databases import mysql
from tests.servers import Capabilities
from tests.servers.kine import on_server


@cache
def database_server() -> mysql.Mysql:
    return mysql.Mysql()


# Another kine's rows may come between, and a conflict with them consumes an id.
CAPABILITIES = Capabilities(holds_key=bytes.isascii, holds_long_keys=False, live_size=False)

BACKENDS = on_server("mysql", database_server, mysql.missing, CAPABILITIES)
