"""SQLite: one file, one writer at a time, several processes if need be."""

from __future__ import annotations

from kine.drivers.base import Log, Options
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.log import SqliteLog
from kine.drivers.sqlite.view import view

__all__ = ["connect", "view"]


def connect(endpoint: str, options: Options) -> Log:
    return SqliteLog(parse(endpoint), options)
