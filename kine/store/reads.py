"""Ranges: selected on the index, answered from frames.

A range whose frames are all cached is answered at once, by a plain call. One that needs the database, or
is so long that it would hold the event loop, becomes a coroutine that works in slices at one revision; who
asks for the same meanwhile waits for the same answer. Long ones are kept for a while (see `lists`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import cast

from kine.store.index import Entry, Index
from kine.store.keys import shown
from kine.store.lists import LONG, Kept, Lists, cuts_of, joined
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
        self.lists = Lists(index, values)
        self._building: dict[tuple[bytes, bytes | None, int, int, int], asyncio.Task[RangeResult]] = {}

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
        plain = _plain(op)
        whole = plain and op.target == SortTarget.KEY and not op.keys_only
        if whole and (kept := self.lists.find(op, revision)) is not None:
            if kept.after:
                self.lists.ended(op, revision, kept.after, kept.count - op.limit)
            return RangeResult(header, kept.chunks, bool(kept.after), kept.count, kept.size)
        limit = op.limit + 1 if op.limit > 0 and plain else 0
        if (not limit or limit > _SLICE) and index.count(op.key, op.end, index.revision) > _SLICE:
            if whole:
                return self._built(op, revision, header)
            return self._range_in_slices(op, revision, header, limit)
        entries = index.scan(op.key, op.end, revision, limit)
        answer = self._answer(op, header, entries, self._count(op, revision, entries, limit, self.lists.era))
        if whole and isinstance(answer, RangeResult):
            self._chunk(op, revision, entries, answer)
        return answer

    def _chunk(self, op: Range, revision: int, entries: list[Entry], answer: RangeResult) -> None:
        frames = answer.frames
        if (size := sum(map(len, frames))) < LONG:
            return
        cuts = cuts_of(frames)
        answer.frames, answer.size = joined(frames, cuts), size
        counts = [end - begin for begin, end in pairwise((0, *cuts))]
        starts = [entries[cut].key for cut in cuts[:-1]]
        after = _after(entries[op.limit - 1]) if answer.more else b""
        self.lists.offer(op, Kept(revision, answer.frames, counts, starts, after, answer.count))

    async def _built(self, op: Range, revision: int, header: int) -> RangeResult:
        """A long range, put together once for all who ask for it meanwhile."""
        name = (op.key, op.end, op.limit, revision, self.lists.era)
        task = self._building.get(name)
        if task is None:
            task = self._building[name] = asyncio.ensure_future(self._build(op, revision))
            task.add_done_callback(lambda _: self._building.pop(name))
        built = await asyncio.shield(task)
        return RangeResult(header, built.frames, built.more, built.count, built.size)

    async def _build(self, op: Range, revision: int) -> RangeResult:
        index, era = self._index, self.lists.era
        chunks: list[bytes] = []
        counts: list[int] = []
        starts: list[bytes] = []
        start = op.key
        found = 0
        more = False
        while True:
            if revision < index.compact_revision:
                raise GoneError
            most = min(_SLICE, op.limit - found + 1) if op.limit > 0 else _SLICE
            entries = index.scan(start, op.end, revision, most)
            last = len(entries) < most
            if op.limit > 0 and found + len(entries) > op.limit:
                entries.pop()
                more = last = True
            found += len(entries)
            frames = [encoded for _, encoded in await self.frames(entries)]
            cuts = cuts_of(frames)
            chunks += joined(frames, cuts)
            counts += [end - begin for begin, end in pairwise((0, *cuts))]
            starts += [entries[cut].key for cut in (0, *cuts[:-1]) if entries]
            if last:
                break
            start = _after(entries[-1])
            await asyncio.sleep(0)
        if more and revision < index.compact_revision:
            raise GoneError
        after = (_after(entries[-1]) if entries else start) if more else b""
        count = self._counted(op, revision, after, era) if more else found
        if era == self.lists.era:
            self.lists.offer(op, Kept(revision, chunks, counts, starts[1:], after, count))
        return RangeResult(0, chunks, more, count, sum(map(len, chunks)))

    def _count(self, op: Range, revision: int, entries: list[Entry], limit: int, era: int) -> int:
        if limit and len(entries) == limit:
            return self._counted(op, revision, _after(entries[op.limit - 1]), era)
        return len(entries)

    def _counted(self, op: Range, revision: int, after: bytes, era: int) -> int:
        """All keys of a range of which only a page is answered; the next page begins at `after`."""
        count = self.lists.left(op, revision)
        if count is None:
            count = self._index.count(op.key, op.end, revision)
        if era == self.lists.era:
            self.lists.ended(op, revision, after, count - op.limit)
        return count

    async def _range_in_slices(self, op: Range, revision: int, header: int, limit: int) -> RangeResult:
        index, era = self._index, self.lists.era
        entries: list[Entry] = []
        start = op.key
        while True:
            if revision < index.compact_revision:
                raise GoneError
            block = index.scan(
                start, op.end, revision, min(_SLICE, limit - len(entries)) if limit else _SLICE
            )
            entries += block
            if len(block) < _SLICE or len(entries) == limit:
                break
            start = _after(block[-1])
            await asyncio.sleep(0)
        count = self._count(op, revision, entries, limit, era)
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


def _after(entry: Entry) -> bytes:
    return entry.key + b"\0"


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
