"""In-memory driver (`memory://`), for tests and throwaway control planes: nothing is persisted.

`memory://` is a private log. `memory://NAME` is shared by all instances that name it in one process and event
loop, as several instances share a database; it is gone when the last of them has closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from weakref import WeakValueDictionary

from kine.drivers.base import (
    BehindError,
    LeaseRecord,
    Log,
    LogTail,
    NewRow,
    Options,
    Row,
    Size,
    UnavailableError,
    Write,
)
from kine.futures import wait_among

_BLOCK = 5_000  # rows
_OVERHEAD = 400  # bytes a row costs in addition to its name and value, roughly

_named: WeakValueDictionary[str, _Rows] = WeakValueDictionary()


def of_one_process(endpoint: str, options: Options) -> bool:
    return True


def connect(endpoint: str, options: Options) -> Log:
    name, question, _ = endpoint.partition("://")[2].partition("?")
    if question:
        raise ValueError("memory:// takes no parameters; write memory:// or memory://NAME")
    if not name:
        return MemoryLog(_Rows())
    rows = _named.get(name)
    if rows is None:
        rows = _named[name] = _Rows()
    return MemoryLog(rows)


class _Rows:
    """The data that the instances on one log share."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}  # in order of id
        self.newest: dict[bytes, int] = {}  # by name
        self.head = 0
        self.compact_revision = 0
        self.leases: dict[int, LeaseRecord] = {}
        self.size = 0
        self.waiting: set[asyncio.Future[None]] = set()

    def conflicts(self, row: NewRow) -> bool:
        newest = self.newest.get(row.name)
        if newest is None:  # compacted, so it was a tombstone, which only a creation can follow
            return not row.created
        if row.created and not row.prev_revision and newest <= self.compact_revision:
            return not self.rows[newest].deleted  # a tombstone about to go: the store has forgotten it
        return newest != row.prev_revision

    def add(self, row: NewRow) -> int:
        self.head += 1
        create = self.head if row.created else row.create_revision
        self.rows[self.head] = Row(
            self.head, row.name, row.created, row.deleted, create, row.prev_revision,
            row.ttl, row.value, row.lease, 0, row.more,
        )  # fmt: skip
        self.newest[row.name] = self.head
        self.size += _cost(row.name, row.value)
        return self.head

    def remove(self, row_id: int) -> None:
        row = self.rows.pop(row_id, None)
        if row is not None:
            self.size -= _cost(row.name, row.value)
            if self.newest[row.name] == row_id:
                del self.newest[row.name]

    def tell(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


def _cost(name: bytes, value: bytes | None) -> int:
    return len(name) + len(value or b"") + _OVERHEAD


class MemoryLog:
    """See `kine.drivers.base.Log`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows: _Rows | None = rows

    @property
    def _open(self) -> _Rows:
        if self._rows is None:
            raise UnavailableError("the log is closed")
        return self._rows

    async def open(self) -> None:
        assert self._open

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        rows = [row._replace(value=None) for row in self._open.rows.values() if row.id > after]
        for start in range(0, len(rows), _BLOCK):
            yield rows[start : start + _BLOCK]

    async def compact_revision(self) -> int:
        return self._open.compact_revision

    def peek_recorded_compaction(self) -> int | None:
        return None if self._rows is None else self._rows.compact_revision

    async def recorded_compaction(self) -> int:
        return self._open.compact_revision

    def peek(self) -> int | None:
        return None if self._rows is None else self._rows.head

    async def newest(self) -> int:
        return self._open.head

    async def tail(self, after: int, limit: int) -> LogTail:
        log = self._open
        found = []
        for row_id in range(after + 1, log.head + 1):
            row = log.rows.get(row_id)
            if row is not None:
                found.append(row)
                if len(found) == limit:
                    return LogTail(found, row_id, log.compact_revision)
        return LogTail(found, max(after, log.head), log.compact_revision)

    async def changed(self, after: int) -> None:
        while (log := self._open).head <= after:
            await wait_among(log.waiting)

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        rows = self._open.rows
        return {row_id: rows[row_id].value or b"" for row_id in ids if row_id in rows}

    # ---- writing

    async def append(self, writes: Sequence[Write], head: int) -> list[Sequence[int] | None]:
        log = self._open
        behind = log.head != head
        if behind and any(write.guarded for write in writes):
            raise BehindError
        outcome: list[Sequence[int] | None] = []
        for write in writes:
            if behind and any(log.conflicts(row) for row in write.rows):
                outcome.append(None)
            else:
                outcome.append([log.add(row) for row in write.rows])
        log.tell()
        return outcome

    def check(self, row: NewRow) -> None:
        """Accepts any row."""

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        log = self._open
        recorded = log.compact_revision
        if recorded >= revision:
            return recorded
        # As in SQL: removes rows replaced since the last compaction, and tombstones before this one.
        for row_id in range(max(1, recorded), revision + 1):
            row = log.rows.get(row_id)
            if row is None:
                continue
            if row.prev_revision and row_id > recorded:
                log.remove(row.prev_revision)
            if row.deleted and row_id < revision:
                log.remove(row_id)
        for row_id, version in versions:
            if row_id in log.rows:
                log.rows[row_id] = log.rows[row_id]._replace(version=version)
        log.compact_revision = revision
        return revision

    async def compacted(self) -> None:
        pass  # removed rows take no memory

    # ---- leases

    async def leases(self) -> list[LeaseRecord]:
        return list(self._open.leases.values())

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        return self._open.leases.get(lease_id)

    async def grant(self, lease_id: int, ttl: int, renewals: int = 0) -> bool:
        leases = self._open.leases
        return leases.setdefault(lease_id, granted := LeaseRecord(lease_id, ttl, renewals)) is granted

    async def renew(self, lease_ids: Sequence[int], renewals: int = 0) -> None:
        leases = self._open.leases
        for lease_id in lease_ids:
            if lease_id in leases and (count := leases[lease_id].renewals) >= 0:
                leases[lease_id] = leases[lease_id]._replace(renewals=max(count + 1, renewals))

    async def expire(self, lease_id: int, renewals: int) -> bool:
        leases = self._open.leases
        record = leases.get(lease_id)
        if record is not None and record.renewals == renewals:
            record = leases[lease_id] = record._replace(renewals=-1)
        return record is None or record.renewals < 0

    async def forget(self, lease_id: int) -> None:
        self._open.leases.pop(lease_id, None)

    # ---- keeping house

    async def size(self) -> Size:
        size = self._open.size
        return Size(size, size)

    async def defragment(self) -> None:
        pass

    def folder(self) -> None:
        return None

    async def close(self) -> None:
        if self._rows is not None:
            self._rows.tell()  # wakes `changed`, which then raises that the log is closed
            self._rows = None
