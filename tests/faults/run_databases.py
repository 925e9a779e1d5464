"""Databases on the run's shared servers, and several instances on one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.databases import mysql, postgres
from tests.drivers.driver_databases import MysqlPlace, Place, PostgresPlace
from tests.servers.kine import start_kine
from tests.servers.mysql import database_server as mysql_server
from tests.servers.postgres import database_server as postgres_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

KINDS = ("postgres", "mysql")


def missing(kind: str) -> str:
    return (postgres if kind == "postgres" else mysql).missing()


def new_place(kind: str) -> Place:
    """A new database, which does not exist yet."""
    return PostgresPlace(postgres_server()) if kind == "postgres" else MysqlPlace(mysql_server())


def start_together(endpoint: str, directory: Path, count: int) -> list[Instance]:
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(lambda number: start_kine(endpoint, "http2", directory / str(number)), range(count))
        )
