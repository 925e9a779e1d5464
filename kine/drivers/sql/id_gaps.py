"""Id gaps: ids missing from the log, as a database allots them before the transaction commits.

A missing id belongs to a transaction that is still under way, or to one that was rolled back. Only the
database knows which: an insert with that id waits for the first, and succeeds at once after the second. Such
a filler row, `gap-<id>`, marked deleted, is what Go kine writes too; no client sees it. A client may have a
key of that very name, which makes the filler conflict in the unique index: it then gets an unguessable name.

A run of many missing ids is a leap of the allocator. Transactions under way can hold only the ids at its
two ends: those are filled one by one, and one row stands for all between, with the last of them as its
create revision. So a leap costs the same whatever its length, also for every later read of the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kine.drivers.base import Row

PREFIX = "gap-"
_PREFIX = PREFIX.encode()
ENDS = 1000  # ids at each end of a leap: more than all transactions under way together can hold


class Filler(NamedTuple):
    """A row to insert where ids are missing."""

    id: int
    last: int = 0  # the last of the ids it stands for; 0: it stands for its own only


def name(row_id: int) -> str:
    return f"{PREFIX}{row_id}"


def unguessable() -> str:
    """A random suffix for a filler's name that a client's key has, too."""
    return f"-{secrets.token_hex(8)}"


def is_filler(name: bytes, deleted: object, prev_revision: int) -> bool:
    """Whether a row is a filler. It replaces no row, as a client's deletion always does."""
    return bool(deleted) and not prev_revision and name.startswith(_PREFIX)


def filler_sql(alias: str = "") -> str:
    """`is_filler` as an SQL condition, with the name as a range, for which an index is used."""
    row = f"{alias}." if alias else ""
    after = PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)
    return (
        f"{row}name >= '{PREFIX}' AND {row}name < '{after}' AND {row}deleted != 0 AND {row}prev_revision = 0"
    )


def end(row: Row) -> int:
    """The last id that a row stands for."""
    if row.create_revision > row.id and is_filler(row.name, row.deleted, row.prev_revision):
        return row.create_revision
    return row.id


class PassedGaps:
    """Missing ids that readers no longer wait for."""

    def __init__(self) -> None:
        self.runs: list[range] = []

    def beyond(self, row_id: int) -> int:
        """The first id from this one on that is not among them."""
        again = True
        while again:
            again = False
            for run in self.runs:
                if row_id in run:
                    row_id, again = run.stop, True
        return row_id

    def add(self, run: range) -> None:
        if self.runs and self.runs[-1].stop == run.start:
            self.runs[-1] = range(self.runs[-1].start, run.stop)
        else:
            self.runs.append(run)


def unbroken(rows: Sequence[Row], after: int, compacted: int, passed: PassedGaps) -> int:
    """How many of the rows follow `after` with no id missing, except those compacted or given up."""
    expected = after + 1
    for count, row in enumerate(rows):
        if row.id > expected:
            expected = passed.beyond(max(expected, compacted + 1))
            if expected < row.id:
                return count
        last = row.id if row.create_revision <= row.id else end(row)
        if last >= expected:
            expected = last + 1
    return len(rows)


def missing(rows: Sequence[Row], after: int, compacted: int, passed: PassedGaps) -> range:
    """The run of missing ids before the first row; there must be one."""
    return range(passed.beyond(max(after, compacted) + 1), rows[0].id)


def between(ids: Sequence[int], after: int) -> list[range]:
    """The runs of ids after `after` that are missing from `ids`, which are in order."""
    runs = []
    for row_id in ids:
        if row_id > after + 1:
            runs.append(range(after + 1, row_id))
        after = row_id
    return runs


def fillers(run: range) -> list[Filler]:
    if len(run) <= 2 * ENDS:
        return [Filler(row_id) for row_id in run]
    low, high = run[:ENDS], run[-ENDS:]
    return [*map(Filler, low), Filler(low.stop, high.start - 1), *map(Filler, high)]
