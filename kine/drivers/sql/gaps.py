"""Ids that are missing from the log, which a database allots before it commits.

A missing id belongs to a transaction that is still under way, or to one that was rolled back. Only the
database knows: who inserts a row of that id waits for the first kind, and succeeds at once for the second.
Such a filler, `gap-<id>`, marked deleted, is what Go kine writes too; no client sees it. A client may have
a key of that very name, which the unique index holds against the filler: it then gets one nobody can guess.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Sequence

LARGEST = 100_000  # missing ids in a row: beyond, nobody is about to commit them, a sequence was moved


def name(row_id: int) -> str:
    return f"gap-{row_id}"


def unguessable() -> str:
    """What follows a filler's name, where a client has the name."""
    return f"-{secrets.token_hex(8)}"


def is_filler(name: bytes, deleted: object, prev_revision: int) -> bool:
    """Of a row: a client's deletion always replaces something."""
    return bool(deleted) and not prev_revision and name.startswith(b"gap-")


def unbroken(ids: Sequence[int], after: int, compacted: int, passed: Container[int]) -> int:
    """How many of the ids follow on `after` with nothing missing but what is compacted or given up."""
    expected = after + 1
    for count, row_id in enumerate(ids):
        if row_id != expected:
            expected = max(expected, compacted + 1)
            while expected < row_id and expected in passed:
                expected += 1
            if expected < row_id:
                return count
        expected = row_id + 1
    return len(ids)


def missing(ids: Sequence[int], after: int, compacted: int, passed: Container[int]) -> range:
    """The first run of missing ids, given that there is one in front of `ids[0]`."""
    first = max(after, compacted) + 1
    while first in passed:
        first += 1
    return range(first, ids[0])
