"""INSERT statements for many rows at once.

Python's sqlite3 releases the GIL for each statement, and waits for it afterwards: a group inserted row by row
waits as often as it has rows, while the event loop is busy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain

from kine.drivers.base import NewRow

MOST = 64  # rows in one statement; one of each size is kept prepared, about 7 KiB on average

_INTO = "INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
# Names are bound as bytes and stored as TEXT, as Go kine does: any bytes, compared as bytes.
_ROW = "(?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?)"
# AUTOINCREMENT's own counter, unlike max(id), never goes back when the newest rows are compacted away.
HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'kine'"
# The larger of the two, as in SQLite: a restore may leave the counter behind until the next insert.
NEWEST = f"SELECT max(coalesce(({HEAD}), 0), coalesce((SELECT max(id) FROM kine), 0))"  # noqa: S608 - constants

_ONE = f"INSERT {_INTO} VALUES {_ROW}"  # noqa: S608 - marks


@cache
def _next(count: int) -> str:
    """The statement that inserts `count` rows if the newest id is the expected one; a transaction itself."""
    rows = ", ".join([_ROW] * count)
    return f"INSERT {_INTO} SELECT * FROM (VALUES {rows}) WHERE ({HEAD}) = ?"  # noqa: S608 - marks


@cache
def _within(count: int) -> str:
    # OR ROLLBACK: SQLite then keeps no copy of each page changed by this one statement, which is half of the
    # statement's cost. A conflict rolls the transaction back, as it would anyway.
    return f"INSERT OR ROLLBACK {_INTO} VALUES {', '.join([_ROW] * count)}"  # noqa: S608 - marks


@cache
def _extra(count: int) -> str:
    marks = ", ".join(["(?, ?, ?)"] * count)
    return f"INSERT OR ROLLBACK INTO kine_extra (id, lease, version) VALUES {marks}"  # noqa: S608 - marks


def insert_next(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], head: int) -> bool:
    """Inserts up to `MOST` rows right after `head`; inserts none and returns False if others have written."""
    cursor = connection.execute(_next(len(rows)), [*chain.from_iterable(rows), head])
    return cursor.rowcount == len(rows)


def insert_within(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Inserts rows in the open transaction, which is rolled back if a row conflicts."""
    for start in range(0, len(rows), MOST):
        block = rows[start : start + MOST]
        connection.execute(_within(len(block)), list(chain.from_iterable(block)))


def insert_extra(connection: sqlite3.Connection, rows: Sequence[tuple[int, int, int]]) -> None:
    for start in range(0, len(rows), MOST):
        block = rows[start : start + MOST]
        connection.execute(_extra(len(block)), list(chain.from_iterable(block)))


def insert_one(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute(_ONE, row)


def parameters(row_id: int, row: NewRow, old: bytes | None) -> tuple[object, ...]:
    return (
        row_id,
        row.name,
        row.created,
        row.deleted,
        row.create_revision,
        row.prev_revision,
        row.ttl,
        row.value,
        old,
    )


def read_old_values(
    connection: sqlite3.Connection, rows: Iterable[NewRow], known: Mapping[int, bytes]
) -> dict[int, bytes | None]:
    """Returns the values that the rows replace, by revision: mostly from `known`, else read."""
    old: dict[int, bytes | None] = dict(known)
    missing = [row.prev_revision for row in rows if row.prev_revision and row.prev_revision not in known]
    for start in range(0, len(missing), MOST):
        block = missing[start : start + MOST]
        marks = ",".join("?" * len(block))
        statement = f"SELECT id, value FROM kine WHERE id IN ({marks})"  # noqa: S608 - marks
        old.update(connection.execute(statement, block))
    return old
