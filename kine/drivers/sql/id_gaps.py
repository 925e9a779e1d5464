"""Ids that are missing from the log, which a database allots before it commits.

A missing id belongs to a transaction that is still under way, or to one that was rolled back. Only the
database knows: who inserts a row of that id waits for the first kind, and succeeds at once for the second.
Such a filler, `gap-<id>`, marked deleted, is what Go kine writes too; no client sees it. A client may have
a key of that very name, which the unique index holds against the filler: it then gets one nobody can guess.

A run of many missing ids is a leap of the allocator. Transactions under way can hold only the ids at its
two ends: those are filled one by one, and one row stands for all between, with the last of them as its
create revision. So a leap costs the same whatever its length, for whoever reads the log later, too.
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
    last: int = 0  # of the ids it stands for; 0: its own only


def name(row_id: int) -> str:
    return f"{PREFIX}{row_id}"


def unguessable() -> str:
    """What follows a filler's name, where a client has the name."""
    return f"-{secrets.token_hex(8)}"


def is_filler(name: bytes, deleted: object, prev_revision: int) -> bool:
    """Of a row: a client's deletion always replaces something."""
    return bool(deleted) and not prev_revision and name.startswith(_PREFIX)


def filler_sql(alias: str = "") -> str:
    """`is_filler` in SQL, the name as a range, which an index finds."""
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
    """Missing ids that are waited for no more."""

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
    """How many of the rows follow on `after` with nothing missing but what is compacted or given up."""
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
    """The first run of missing ids, given that there is one in front of the first row."""
    return range(passed.beyond(max(after, compacted) + 1), rows[0].id)


def between(ids: Sequence[int], after: int) -> list[range]:
    """The runs of ids after `after` that are missing among these, which are in order."""
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
