"""Opening the SQLite file: creation, schema, start-up maintenance, and connections."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kine.drivers.base import DriverError
from kine.drivers.sql import statements, tables
from kine.drivers.sqlite import integer_names
from kine.drivers.sqlite.disk_reserve import SUFFIX
from kine.drivers.sqlite.failures import file_size, no_access
from kine.drivers.sqlite.preflight import check_file
from kine.drivers.sqlite.write_transactions import transaction

if TYPE_CHECKING:
    from kine.drivers.sqlite.dsn import Dsn

log = logging.getLogger(__name__)

_VACUUM_SHARE = 0.05  # share of free pages in the file from which the start-up VACUUM is worth its time
_LOCKED = 0.01  # seconds between attempts
_MAINTENANCE_TIMEOUT = 2.0  # seconds to wait for another process before leaving it for another time

SIZE = (
    "SELECT page_count * page_size, (page_count - freelist_count) * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
)

_BEHIND = "SELECT 1 FROM sqlite_sequence WHERE name = 'kine' AND seq < (SELECT max(id) FROM kine)"
_ADVANCE = "UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM kine) WHERE name = 'kine'"

# `Checkpoints` copies the write-ahead log into the file. This limit, at which SQLite's own commit does it, is
# for a log that grows faster than they can copy.
_WAL_PAGES = 64_000  # of 4 KiB


def make(dsn: Dsn) -> None:
    """Creates the file if it does not exist. Raises DriverError if it is not a database for kine."""
    folder = os.path.dirname(dsn.path)
    try:
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        check_file(dsn.path, whole=dsn.startup_vacuum, lock_wait=dsn.busy_timeout)
        if not os.path.exists(dsn.path):
            if not dsn.create:
                raise DriverError(
                    f"{dsn.path} does not exist, and mode=rw in the endpoint forbids creating it"
                )
            # The file holds every Secret of a cluster: no other user may read it.
            os.close(os.open(dsn.path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise DriverError(
            f"cannot create {dsn.path}: {no_access(_nearest(dsn.path)) or error.strerror}"
        ) from None


def _nearest(path: str) -> str:
    """The part of the path just below its deepest existing directory."""
    folder = os.path.dirname(path)
    while folder and not os.path.lexists(folder) and folder != os.path.dirname(folder):
        path, folder = folder, os.path.dirname(folder)
    return path


def keep_temporary_files_beside(path: str, connection: sqlite3.Connection) -> None:
    """Sets the directory for VACUUM's copy to the database's own: /tmp may be small or read-only."""
    folder = (os.path.dirname(path) or ".").replace("'", "''")
    connection.execute(f"PRAGMA temp_store_directory = '{folder}'")


def connect(dsn: Dsn) -> sqlite3.Connection:
    connection = sqlite3.connect(
        dsn.path,
        timeout=dsn.busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.text_factory = bytes
        if dsn.auto_vacuum:
            connection.execute(f"PRAGMA auto_vacuum = {dsn.auto_vacuum}")
        _set_journal_mode(connection, dsn)
        connection.execute(f"PRAGMA synchronous = {dsn.synchronous}")
        pages = _WAL_PAGES if dsn.wal_autocheckpoint else 0
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        if dsn.cache_size is not None:
            connection.execute(f"PRAGMA cache_size = {dsn.cache_size}")
        if dsn.secure_delete:
            connection.execute(f"PRAGMA secure_delete = {dsn.secure_delete}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _set_journal_mode(connection: sqlite3.Connection, dsn: Dsn) -> None:
    """Sets the journal mode, and waits for other connections that do: on a new file SQLite does not wait."""
    until = time.monotonic() + dsn.busy_timeout
    while True:
        try:
            [(journal,)] = connection.execute(f"PRAGMA journal_mode = {dsn.journal_mode}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_LOCKED)
        else:
            break
    if journal in (b"memory", b"off"):
        raise DriverError(
            f"{dsn.path} has no journal that outlasts a crash ({journal.decode()}), whatever is set"
        )


def prepare(dsn: Dsn, writer: sqlite3.Connection) -> None:
    """Creates and migrates the tables, and runs the start-up maintenance. Raises sqlite3.Error."""
    _check_writable(dsn, writer)
    if _lacks(_tables(writer)):  # else do not wait for the write lock, which another process may hold
        with transaction(writer):
            _make_tables(writer)
    integer_names.make_text(writer)
    if writer.execute(_BEHIND).fetchone():
        writer.execute(_ADVANCE)
        log.warning("sqlite_sequence was behind the newest row: advanced it (a restore may leave it behind)")
    if dsn.compact_wal_checkpoint:
        with _brief(dsn, writer):
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if dsn.startup_vacuum:
        _vacuum_at_start(dsn, writer)


def _tables(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name.decode() for (name,) in found}


def _lacks(found: set[str]) -> bool:
    return "key_value" in found or any(name not in found for name in tables.EVERYWHERE)


def _make_tables(writer: sqlite3.Connection) -> None:
    """Creates missing tables. Runs in a transaction, as another instance may start on the file just now."""
    found = _tables(writer)
    for table in tables.EVERYWHERE:
        if table in found:
            continue
        writer.execute(tables.TABLES["sqlite"][table])
        for index, statement in tables.INDEXES["sqlite"].items() if table == tables.KINE else ():
            if index not in tables.UNUSED_ON_SQLITE:
                writer.execute(statement)
    if "key_value" in found and not writer.execute(statements.ANY_ROW).fetchone():
        moved = writer.execute(statements.MIGRATE).rowcount
        log.info("moved %d keys from the table key_value of an old release", moved)


def _check_writable(dsn: Dsn, writer: sqlite3.Connection) -> None:
    """Raises if the connection is read-only, so that all writes would fail. Does not wait for locks."""
    writer.execute("PRAGMA busy_timeout = 0")
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # a lock held elsewhere is released again
            raise
    finally:
        writer.execute(f"PRAGMA busy_timeout = {int(dsn.busy_timeout * 1000)}")


def vacuum(dsn: Dsn, writer: sqlite3.Connection) -> None:
    """Frees unused pages (VACUUM). Its copy goes through the write-ahead log, which is truncated after it."""
    writer.execute("VACUUM")
    if dsn.compact_wal_checkpoint:
        with _brief(dsn, writer):
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextmanager
def without_zeros(writer: sqlite3.Connection) -> Iterator[None]:
    """Keeps SQLite from overwriting whole freed pages with zeros."""
    [(before,)] = writer.execute("PRAGMA secure_delete")
    writer.execute("PRAGMA secure_delete = FAST")
    try:
        yield
    finally:
        writer.execute(f"PRAGMA secure_delete = {before}")


def disk_size(path: str) -> int:
    """Bytes of all files. SQLite's page count is not added to them: it includes the pages in the log."""
    return file_size(path) + log_size(path) + file_size(f"{path}{SUFFIX}")


def log_size(path: str) -> int:
    return file_size(f"{path}-wal")  # none in another journal mode


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
    """Shortens the wait for other processes' locks: maintenance can run at the next start instead."""
    connection.execute(f"PRAGMA busy_timeout = {int(_MAINTENANCE_TIMEOUT * 1000)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(dsn.busy_timeout * 1000)}")
