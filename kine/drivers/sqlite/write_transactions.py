"""Write transactions, one per function, run by the single writer thread on its connection."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kine.drivers.base import BehindError, NewRow, Row, Write
from kine.drivers.sql import id_gaps, statements
from kine.drivers.sqlite import insert_statements

# Names are bound as bytes and stored as TEXT (see `insert_statements`).
_EXISTS, _SINCE = (
    statement.replace("name = ?", "name = CAST(? AS TEXT)")
    for statement in (statements.EXISTS, statements.SINCE)
)
_RECORD_VERSION = (
    "INSERT INTO kine_extra (id, lease, version) SELECT id, 0, ? FROM kine WHERE id = ?"
    " ON CONFLICT (id) DO UPDATE SET version = excluded.version"
)


def newest(connection: sqlite3.Connection) -> int:
    row = connection.execute(insert_statements.NEWEST).fetchone()
    return row[0] if row else 0


def compact_revision(connection: sqlite3.Connection) -> int:
    return connection.execute(statements.COMPACT_REVISION).fetchone()[0] or 0


@contextmanager
def transaction(writer: sqlite3.Connection) -> Iterator[None]:
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.execute("COMMIT")
    except BaseException:
        # A failed COMMIT leaves the transaction open; some errors (disk full) have closed it already.
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise


def append(
    writer: sqlite3.Connection,
    writes: Sequence[Write],
    rows: list[NewRow],
    known: dict[int, bytes],
    head: int,
    *,
    brief: bool = False,
) -> list[Sequence[int] | None]:
    """Appends a group of writes, see `kine.drivers.base.Log.append`.

    `known` has replaced values by revision. `brief` leaves replaced values out of the table, where only Go
    kine reads them, for the events of a watch.
    """
    old = {} if brief else insert_statements.read_old_values(writer, rows, known)
    inserted = [
        insert_statements.parameters(row_id, row, old.get(row.prev_revision))
        for row_id, row in enumerate(rows, head + 1)
    ]
    extra = [_extra(row_id, row) for row_id, row in enumerate(rows, head + 1) if row.lease or row.more]
    # Mostly no other process has written: the caller's index was current, so nothing can conflict.
    if (
        not extra
        and len(rows) <= insert_statements.MOST
        and insert_statements.insert_next(writer, inserted, head)
    ):
        return _ids(writes, head)
    with transaction(writer):
        last = newest(writer)
        if last == head:
            insert_statements.insert_within(writer, inserted)
            insert_statements.insert_extra(writer, extra)
            return _ids(writes, head)
        if any(write.guarded for write in writes):
            raise BehindError
        return _append_behind(writer, writes, old, last)


def _append_behind(
    writer: sqlite3.Connection,
    writes: Sequence[Write],
    old: dict[int, bytes | None],
    last: int,
) -> list[Sequence[int] | None]:
    """Inserts each write in a savepoint, as others have appended: the unique index shows conflicts."""
    outcome: list[Sequence[int] | None] = []
    for write in writes:
        writer.execute("SAVEPOINT one")
        ids = range(last + 1, last + 1 + len(write.rows))
        try:
            for row_id, row in zip(ids, write.rows, strict=True):
                if not _possible(writer, row):
                    raise sqlite3.IntegrityError
                insert_statements.insert_one(
                    writer, insert_statements.parameters(row_id, row, old.get(row.prev_revision))
                )
                if row.lease or row.more:
                    writer.execute(statements.INSERT_EXTRA, _extra(row_id, row))
        except sqlite3.IntegrityError:
            writer.execute("ROLLBACK TO one")
            outcome.append(None)
        else:
            last = ids[-1]
            outcome.append(ids)
        writer.execute("RELEASE one")
    return outcome


def _possible(writer: sqlite3.Connection, row: NewRow) -> bool:
    """Whether the row it replaces still exists: the unique index does not show rows compacted meanwhile."""
    if row.created:
        return writer.execute(_SINCE, (row.name, row.prev_revision)).fetchone() is None
    if not row.prev_revision:
        return True
    return writer.execute(_EXISTS, (row.prev_revision, row.name)).fetchone() is not None


def _ids(writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
    ids: list[Sequence[int] | None] = []
    for write in writes:
        first, head = head + 1, head + len(write.rows)
        ids.append(range(first, head + 1))
    return ids


def _extra(row_id: int, row: NewRow) -> tuple[int, int, int]:
    return row_id, row.lease, statements.MORE if row.more else 0


def compact(
    writer: sqlite3.Connection, revision: int, size: int, versions: Sequence[tuple[int, int]], known: int
) -> tuple[int, int, float]:
    """Compacts by up to `size` revisions; `known` is where this instance's last step ended.

    Returns where this step ended, the number of rows removed or cleared of old values, and its seconds.
    """
    began = time.perf_counter()
    with transaction(writer):
        recorded = compact_revision(writer)
        if recorded >= revision:
            return recorded, 0, 0.0
        reached = min(recorded + size, revision)
        bounds = (recorded, reached, recorded if recorded == known else 0, reached, reached)
        writer.execute(statements.COMPACT_EXTRA, bounds)
        removed = writer.execute(statements.COMPACT, bounds).rowcount
        removed += writer.execute(statements.CLEAR_OLD_VALUES, (recorded, reached)).rowcount
        # All at the first step: a version can be counted from the rows only until they are removed.
        writer.executemany(_RECORD_VERSION, [(version, row_id) for row_id, version in versions])
        writer.execute(statements.SET_COMPACT_REVISION, (reached,))
    return reached, removed, time.perf_counter() - began


def advance(writer: sqlite3.Connection, revision: int) -> None:
    with transaction(writer):  # inserts a gap filler, see `kine.drivers.sql.id_gaps`
        if newest(writer) < revision:
            name = id_gaps.name(revision) + id_gaps.unguessable()  # a key may have the name without suffix
            gap = NewRow(name.encode(), False, True, 0, 0, 0, None, 0)
            insert_statements.insert_one(writer, insert_statements.parameters(revision, gap, None))


def place(writer: sqlite3.Connection, rows: Sequence[Row]) -> None:
    with transaction(writer):
        writer.execute(statements.ungap(len(rows)), [row.id for row in rows])
        placed = [insert_statements.parameters(row.id, statements.as_new(row), None) for row in rows]
        insert_statements.insert_within(writer, placed)
        extra = [(row.id, row.lease, row.version) for row in rows if row.lease or row.version]
        insert_statements.insert_extra(writer, extra)


def grant(writer: sqlite3.Connection, row: tuple[int, int, int]) -> bool:
    try:
        with transaction(writer):
            writer.execute(statements.GRANT, row)
    except sqlite3.IntegrityError:
        return False
    return True


def expire(writer: sqlite3.Connection, lease_id: int, renewals: int) -> bool:
    with transaction(writer):
        writer.execute(statements.EXPIRE, (lease_id, renewals))
        found = writer.execute(statements.LEASE, (lease_id,)).fetchone()
        return found is None or found[2] < 0


def each(writer: sqlite3.Connection, statement: str, rows: Sequence[tuple[int, ...]]) -> None:
    with transaction(writer):
        writer.executemany(statement, rows)
