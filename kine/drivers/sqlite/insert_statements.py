"""Inserting rows, as many as there are with one statement.

Python's SQLite gives up the interpreter's lock for each statement, and has to wait for it afterwards: a
group inserted row by row waits as often as it has rows, while the event loop is busy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain

from kine.drivers.base import NewRow

MOST = 64  # rows in one statement; of each size one is kept prepared, about 7 KiB in the mean

_INTO = "INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
# Names are bound as bytes and stored as TEXT, as Go kine does: any bytes, compared as bytes.
_ROW = "(?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?)"
# AUTOINCREMENT's own counter, unlike max(id), never goes back when the newest rows are compacted away.
HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'kine'"
# As SQLite does, the larger of both: a restore may leave the counter behind, until the next row is inserted.
NEWEST = f"SELECT max(coalesce(({HEAD}), 0), coalesce((SELECT max(id) FROM kine), 0))"  # noqa: S608 - constants

_ONE = f"INSERT {_INTO} VALUES {_ROW}"  # noqa: S608 - marks


@cache
def _next(count: int) -> str:
    """Inserts so many rows if the table ends where the caller thinks; a transaction of its own."""
    rows = ", ".join([_ROW] * count)
    return f"INSERT {_INTO} SELECT * FROM (VALUES {rows}) WHERE ({HEAD}) = ?"  # noqa: S608 - marks


@cache
def _within(count: int) -> str:
    # OR ROLLBACK: SQLite then keeps no copy of each page changed by this one statement, which is half of
    # what it costs. A conflict undoes the transaction, as it would anyway.
    return f"INSERT OR ROLLBACK {_INTO} VALUES {', '.join([_ROW] * count)}"  # noqa: S608 - marks


@cache
def _extra(count: int) -> str:
    marks = ", ".join(["(?, ?, ?)"] * count)
    return f"INSERT OR ROLLBACK INTO kine_extra (id, lease, version) VALUES {marks}"  # noqa: S608 - marks


def insert_next(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], head: int) -> bool:
    """At most `MOST` rows, right after `head`. False if others have written since; nothing is inserted."""
    cursor = connection.execute(_next(len(rows)), [*chain.from_iterable(rows), head])
    return cursor.rowcount == len(rows)


def insert_within(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """In a transaction, which is rolled back if a row is in conflict."""
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
    """By revision, what the rows replace: known to the caller mostly, else read."""
    old: dict[int, bytes | None] = dict(known)
    missing = [row.prev_revision for row in rows if row.prev_revision and row.prev_revision not in known]
    for start in range(0, len(missing), MOST):
        block = missing[start : start + MOST]
        marks = ",".join("?" * len(block))
        statement = f"SELECT id, value FROM kine WHERE id IN ({marks})"  # noqa: S608 - marks
        old.update(connection.execute(statement, block))
    return old
