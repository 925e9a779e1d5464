"""Opening the file: made if it is not there, brought into shape, and connections to it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from sqlalchemy import inspect

from kine.drivers.base import DriverError
from kine.drivers.sql import schema, statements
from kine.drivers.sqlite.check import check_file

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from kine.drivers.sqlite.dsn import Dsn

log = logging.getLogger(__name__)

_VACUUM_SHARE = 0.05  # of the file must be free pages before the start-up VACUUM is worth its time
_MAINTENANCE_TIMEOUT = 2.0  # seconds to wait for another process before leaving it for another time

SIZE = (
    "SELECT page_count * page_size, (page_count - freelist_count) * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
)

# `Checkpoints` copies the write-ahead log into the file; this bound of SQLite's own, at which a commit does
# it, is for what is still there when they cannot keep up.
_WAL_PAGES = 64_000  # of 4 KiB


def make(dsn: Dsn) -> None:
    """Makes the file if it is not there. Raises DriverError if it is not one to open."""
    folder = os.path.dirname(dsn.path)
    if folder and not os.path.isdir(folder):
        os.makedirs(folder, mode=0o700)
    check_file(dsn.path, whole=dsn.startup_vacuum)
    if not os.path.exists(dsn.path):
        if not dsn.create:
            raise DriverError(f"{dsn.path} does not exist, and mode=rw in the endpoint forbids creating it")
        # The file holds every Secret of a cluster: nobody else's to read.
        os.close(os.open(dsn.path, os.O_CREAT | os.O_WRONLY, 0o600))


def connect(dsn: Dsn) -> sqlite3.Connection:
    connection = sqlite3.connect(
        dsn.path,
        timeout=dsn.busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.text_factory = bytes
    connection.execute(f"PRAGMA journal_mode = {dsn.journal_mode}")
    connection.execute(f"PRAGMA synchronous = {dsn.synchronous}")
    pages = _WAL_PAGES if dsn.wal_autocheckpoint else 0
    connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
    if dsn.cache_size is not None:
        connection.execute(f"PRAGMA cache_size = {dsn.cache_size}")
    return connection


def prepare(dsn: Dsn, writer: sqlite3.Connection, engine: Engine) -> None:
    """The tables, and what is to be done at a start."""
    with engine.connect() as connection:
        # The pool's connections give text as bytes, which SQLAlchemy's inspector does not expect.
        raw = cast("sqlite3.Connection", connection.connection.dbapi_connection)
        raw.text_factory = str
        tables = set(inspect(connection).get_table_names())
        schema.metadata.create_all(connection, schema.EVERYWHERE)
        connection.commit()
    engine.dispose()  # that connection's statements would hold up the checkpoint below
    if "key_value" in tables and not writer.execute(statements.ANY_ROW).fetchone():
        moved = writer.execute(statements.MIGRATE).rowcount
        log.info("moved %d keys from the table key_value of an old release", moved)
    if dsn.compact_wal_checkpoint:
        with _brief(dsn, writer):
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if dsn.startup_vacuum:
        _vacuum_at_start(dsn, writer)


def _vacuum_at_start(dsn: Dsn, writer: sqlite3.Connection) -> None:
    allocated, in_use = writer.execute(SIZE).fetchone()
    if allocated - in_use < allocated * _VACUUM_SHARE:
        return
    log.info("reclaiming %d free bytes of %d (VACUUM)", allocated - in_use, allocated)
    try:
        with _brief(dsn, writer):
            writer.execute("VACUUM")
    except sqlite3.OperationalError as error:
        log.warning("the start-up VACUUM was left out: %s", error)


@contextmanager
def _brief(dsn: Dsn, connection: sqlite3.Connection) -> Iterator[None]:
    """Waits for other processes only for a moment: maintenance can be done at the next start."""
    connection.execute(f"PRAGMA busy_timeout = {int(_MAINTENANCE_TIMEOUT * 1000)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(dsn.busy_timeout * 1000)}")
