"""Short helpers that write and read rows."""

from __future__ import annotations

from kine.drivers.base import Log, NewRow, Row, Write


def created(name: bytes, value: bytes = b"value", *, prev: int = 0, ttl: int = 0, lease: int = 0) -> NewRow:
    return NewRow(name, True, False, 0, prev, ttl, value, lease)


def updated(name: bytes, prev: int, create: int, value: bytes = b"changed") -> NewRow:
    return NewRow(name, False, False, create, prev, 0, value, 0)


def deleted(name: bytes, prev: int) -> NewRow:
    return NewRow(name, False, True, 0, prev, 0, None, 0)


def write(*rows: NewRow, guarded: bool = False) -> Write:
    return Write(rows, guarded)


async def all_rows(log: Log, after: int = 0, limit: int = 500) -> list[Row]:
    """All rows, as a tailer reads them, without gap rows."""
    found: list[Row] = []
    while True:
        tail = await log.tail(after, limit)
        if not tail.rows:
            return [row for row in found if not row.name.startswith(b"gap-")]
        found += tail.rows
        after = tail.head
