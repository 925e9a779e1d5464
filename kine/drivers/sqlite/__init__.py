"""SQLite driver: one file with one writer at a time, which several processes may share; or in memory."""

from __future__ import annotations

import logging
import os

from kine.drivers.base import Log, Options
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.read_only_view import inspect

__all__ = ["connect", "inspect", "is_new", "of_one_process"]

_log = logging.getLogger(__name__)  # not `log`: the module of that name takes its place once imported


def connect(endpoint: str, options: Options) -> Log:
    dsn = parse(endpoint)
    for warning in dsn.warnings:
        _log.warning("%s", warning)
    if dsn.memory:
        from kine.drivers import memory

        return memory.connect("memory://", options)
    from kine.drivers.sqlite.log import SqliteLog  # not at the top: `of_one_process` alone does not need it

    return SqliteLog(dsn, options)


def of_one_process(endpoint: str, options: Options) -> bool:
    return parse(endpoint).memory


def is_new(endpoint: str, options: Options) -> bool:
    dsn = parse(endpoint)
    return not dsn.memory and not os.path.exists(dsn.path)
