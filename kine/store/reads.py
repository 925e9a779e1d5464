"""Ranges: selected on the index, answered from frames.

A range whose frames are all cached is answered at once, by a plain call. One that needs the database, or
is so long that it would hold the event loop, becomes a coroutine that works in slices at one revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import cast

from kine.store.index import Entry, Index
from kine.store.keys import shown
from kine.store.ops import Range, RangeResult, SortOrder, SortTarget
from kine.store.values import Values, bare_frame, frame, value_of

_SLICE = 4_000  # keys: about 1 ms of scanning
_ORDERS = {
    SortTarget.KEY: attrgetter("key"),
    SortTarget.VERSION: attrgetter("version"),
    SortTarget.CREATE: attrgetter("create"),
    SortTarget.MOD: attrgetter("mod"),
}

FetchValues = Callable[[Sequence[int]], Awaitable[dict[int, bytes]]]


class GoneError(Exception):
    """A row that was to be read has been compacted meanwhile."""


class Reads:
    def __init__(
        self, index: Index, values: Values, fetch: FetchValues, gone: Callable[[], Awaitable[None]]
    ) -> None:
        self._index = index
        self._values = values
        self._fetch_rows = fetch
        self._gone = gone  # learns from the database how far it is compacted
        self._wanted: dict[int, Entry] = {}
        self._flush: asyncio.Task[dict[int, bytes]] | None = None

    def range(self, op: Range, revision: int, header: int) -> RangeResult | Awaitable[RangeResult]:
        """The range as of `revision`; the answer says `header`. Raises GoneError."""
        index = self._index
        if op.count_only:
            count = index.count(op.key, op.end, revision)
            return RangeResult(header, [], False, count)
        if op.end is None:
            entry = index.at(op.key, revision)
            if entry is None:
                return RangeResult(header, [], False, 0)
            if not _filtered(op):
                if op.keys_only:
                    return RangeResult(header, [bare_frame(entry)], False, 1)
                cached = self._values.get(entry.mod)
                if cached is not None:
                    self._values.hits += 1
                    return RangeResult(header, [cached], False, 1)
            return self._answer(op, header, [entry], 1)
        limit = op.limit + 1 if op.limit > 0 and _plain(op) else 0
        if (not limit or limit > _SLICE) and index.count(op.key, op.end, index.revision) > _SLICE:
            return self._range_in_slices(op, revision, header, limit)
        entries = index.scan(op.key, op.end, revision, limit)
        return self._answer(op, header, entries, self._count(op, revision, entries, limit))

    def _count(self, op: Range, revision: int, entries: list[Entry], limit: int) -> int:
        if limit and len(entries) == limit:
            return self._index.count(op.key, op.end, revision)
        return len(entries)

    async def _range_in_slices(self, op: Range, revision: int, header: int, limit: int) -> RangeResult:
        index = self._index
        entries: list[Entry] = []
        start = op.key
        while True:
            block = index.scan(
                start, op.end, revision, min(_SLICE, limit - len(entries)) if limit else _SLICE
            )
            entries += block
            if len(block) < _SLICE or len(entries) == limit:
                break
            start = block[-1].key + b"\0"
            await asyncio.sleep(0)
            if revision < index.compact_revision:
                raise GoneError
        count = self._count(op, revision, entries, limit)
        answer = self._answer(op, header, entries, count)
        return answer if isinstance(answer, RangeResult) else await answer

    def _answer(
        self, op: Range, header: int, entries: list[Entry], count: int
    ) -> RangeResult | Awaitable[RangeResult]:
        if _filtered(op):
            entries = _filter(op, entries)
        # As in etcd: any target but the key sorts, ascending if no order is given.
        if op.target != SortTarget.KEY or op.order == SortOrder.DESCEND:
            descending = op.order == SortOrder.DESCEND
            if op.target == SortTarget.VALUE:
                return self._answer_by_value(op, header, entries, count, descending)
            entries = sorted(entries, key=_ORDERS[SortTarget(op.target)], reverse=descending)
        more = 0 < op.limit < len(entries)
        if more:
            entries = entries[: op.limit]
        if op.keys_only:
            return RangeResult(header, [bare_frame(entry) for entry in entries], more, count)
        frames: list[bytes | None] = []
        missing = self._values.collect(entries, frames)
        if not missing:
            return RangeResult(header, cast("list[bytes]", frames), more, count)
        return self._answer_fetched(header, entries, frames, missing, more, count)

    async def _answer_fetched(
        self,
        header: int,
        entries: list[Entry],
        frames: list[bytes | None],
        missing: list[Entry],
        more: bool,
        count: int,
    ) -> RangeResult:
        fetched = await self.fetch(missing)
        complete = [
            fetched[entry.mod] if cached is None else cached
            for entry, cached in zip(entries, frames, strict=True)
        ]
        return RangeResult(header, complete, more, count)

    async def _answer_by_value(
        self, op: Range, header: int, entries: list[Entry], count: int, descending: bool
    ) -> RangeResult:
        pairs = [(value_of(encoded), entry, encoded) for entry, encoded in await self.frames(entries)]
        pairs.sort(key=lambda pair: pair[0], reverse=descending)
        more = 0 < op.limit < len(pairs)
        if more:
            pairs = pairs[: op.limit]
        frames = [bare_frame(entry) if op.keys_only else encoded for _, entry, encoded in pairs]
        return RangeResult(header, frames, more, count)

    # ---- frames by entry

    async def frames(self, entries: list[Entry]) -> list[tuple[Entry, bytes]]:
        """Raises GoneError."""
        cached: list[bytes | None] = []
        missing = self._values.collect(entries, cached)
        fetched = await self.fetch(missing) if missing else {}
        return [
            (entry, fetched[entry.mod] if found is None else found)
            for entry, found in zip(entries, cached, strict=True)
        ]

    async def fetch(self, entries: Sequence[Entry]) -> dict[int, bytes]:
        """Frames from the database, by revision: one read for all who ask before it starts.

        Raises GoneError when a row is no more.
        """
        self._wanted.update((entry.mod, entry) for entry in entries)
        if self._flush is None:
            self._flush = asyncio.ensure_future(self._fetch())
        fetched = await asyncio.shield(self._flush)
        if not all(entry.mod in fetched for entry in entries):
            await self._gone()
            raise GoneError
        return fetched

    async def _fetch(self) -> dict[int, bytes]:
        await asyncio.sleep(0)  # let whoever is ready now join
        wanted, self._wanted = self._wanted, {}
        self._flush = None
        frames = {}
        rows = await self._fetch_rows(list(wanted))
        for count, (revision, value) in enumerate(rows.items(), 1):
            entry = wanted[revision]
            encoded = frame(entry, shown(entry.key, value))
            frames[revision] = encoded
            self._values.put(revision, encoded)
            if not count % _SLICE:
                await asyncio.sleep(0)
        return frames


def _plain(op: Range) -> bool:
    """A limit can be taken while scanning: as in etcd, where no order is given, whatever the target."""
    in_order = op.order == SortOrder.NONE or (op.order == SortOrder.ASCEND and op.target == SortTarget.KEY)
    return in_order and not _filtered(op)


def _filtered(op: Range) -> bool:
    return bool(op.min_mod or op.max_mod or op.min_create or op.max_create)


def _filter(op: Range, entries: list[Entry]) -> list[Entry]:
    if op.max_mod:
        entries = [entry for entry in entries if entry.mod <= op.max_mod]
    if op.min_mod:
        entries = [entry for entry in entries if entry.mod >= op.min_mod]
    if op.max_create:
        entries = [entry for entry in entries if entry.create <= op.max_create]
    if op.min_create:
        entries = [entry for entry in entries if entry.create >= op.min_create]
    return entries
