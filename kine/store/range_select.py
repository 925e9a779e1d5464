"""Range queries: entries are selected on the index, and answered from frames.

A range whose frames are all cached is answered at once, by a plain call. A range that needs the database, or
is so long that it would hold up the event loop, becomes a coroutine that works in slices at one revision;
concurrent requests for the same long range share one answer. Long ranges are cached (see `range_cache`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any, cast

from kine.fair_queue import FairSemaphore, FairTurns
from kine.store.errors import AnswerTooLargeError
from kine.store.index import Entry, Index
from kine.store.operations import (
    LARGEST_ANSWER,
    Range,
    RangeResult,
    SortOrder,
    SortTarget,
)
from kine.store.range_cache import LONG, CachedRange, RangeCache, cuts_of, joined
from kine.store.reserved_key_translation import shown
from kine.store.sliced_sort import AT_ONCE, sorted_in_turns
from kine.store.value_cache import ValueCache, bare_frame, frame, value_of

_SLICE = 4_000  # keys: about 1 ms of scanning
_AT_ONCE = 16  # long ranges that are sorted or filtered at once
_PORTION = 8 * 1024 * 1024  # bytes of rows that are read at once, by the average size seen
_LEAST_ROWS = 16
_USUAL = 32 * 1024  # bytes assumed of a row while no size is known
_LARGEST = 1536 * 1024  # bytes assumed of the largest row, likewise
_MANY = 500  # keys; the sizes of fewer are not added up before they are joined
_ORDERS = {
    SortTarget.VERSION: attrgetter("version"),
    SortTarget.CREATE: attrgetter("create"),
    SortTarget.MOD: attrgetter("mod"),
}

FetchValues = Callable[[Sequence[int]], Awaitable[dict[int, bytes]]]


_Name = tuple[bytes, bytes | None, int, int, int, int]


class _Building:
    """A long range that is being built, and the number of requests that wait for it."""

    __slots__ = ("client", "task", "wanted")

    def __init__(self, client: object) -> None:
        self.client = client  # whose turns it takes: this object's own, once several clients wait for it
        self.task: asyncio.Task[RangeResult] | None = None
        self.wanted = 0

    def join(self, client: object) -> None:
        self.wanted += 1
        if client is not self.client:
            self.client = self


class GoneError(Exception):
    """A row was compacted before it could be read."""


class UnreadValues:
    """A range that is read when awaited. A caller that does not await it must close it."""

    __slots__ = ("_answer", "_read")

    def __init__(
        self,
        answer: Awaitable[RangeResult],
        read: Callable[[Awaitable[RangeResult]], Coroutine[Any, Any, RangeResult]],
    ) -> None:
        self._answer = answer
        self._read = read

    def __await__(self) -> Generator[Any, None, RangeResult]:
        return self._read(self._answer).__await__()

    def close(self) -> None:
        if inspect.iscoroutine(self._answer):
            self._answer.close()


class RangeReader:
    def __init__(
        self,
        index: Index,
        values: ValueCache,
        lists: RangeCache,
        fetch: FetchValues,
        learn_compaction: Callable[[], Awaitable[None]],
        turns: FairTurns,
    ) -> None:
        self._index = index
        self._values = values
        self._fetch_rows = fetch
        self.learn_compaction = learn_compaction  # from the database
        self._turns = turns
        self._few = FairSemaphore(_AT_ONCE)
        self._wanted: dict[int, Entry] = {}
        self._flush: asyncio.Task[dict[int, bytes]] | None = None
        self.lists = lists
        self._building: dict[_Name, _Building] = {}

    def expected(self, op: Range) -> int:
        """Estimates the bytes of the range's answer."""
        count = self._index.count(op.key, op.end, self._index.revision)
        return (min(op.limit, count) if op.limit > 0 else count) * self._usual()

    def expected_of(self, key: bytes, revision: int = 0) -> int:
        """Estimates the bytes of the key's value: an uncached one may be as large as the largest so far."""
        index = self._index
        entry = index.at(key, revision) if revision > 0 else index.live(key)
        if entry is None:
            return 0
        cached = self._values.get(entry.mod)
        return len(cached) if cached is not None else self._values.largest or _LARGEST

    def _usual(self) -> int:
        values = self._values
        return values.size // len(values) if len(values) else _USUAL

    def range(
        self, op: Range, revision: int, header: int, most: int = LARGEST_ANSWER
    ) -> RangeResult | Awaitable[RangeResult]:
        """Answers the range as of `revision`, with `header` as header revision and at most `most` bytes.

        Raises GoneError, AnswerTooLargeError.
        """
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
            return self._answer(op, header, _filter(op, [entry]), 1, most)
        plain = _plain(op)
        whole = plain and op.target == SortTarget.KEY and not op.keys_only
        if whole and (kept := self.lists.find(op, revision)) is not None:
            if kept.after:
                self.lists.ended(op, revision, kept.after, kept.count - op.limit)
            return RangeResult(header, kept.chunks, bool(kept.after), kept.count, kept.size)
        limit = op.limit + 1 if op.limit > 0 and plain else 0
        if (not limit or limit > _SLICE) and index.count(op.key, op.end, index.revision) > _SLICE:
            if whole:
                return self._built(op, revision, header, most)
            return self._one_of_few(op, revision, header, limit, most)
        entries = index.scan(op.key, op.end, revision, limit)
        count = self._count(op, revision, entries, limit, self.lists.era)
        answer = self._answer(op, header, _filter(op, entries), count, most)
        if whole and isinstance(answer, RangeResult):
            self._chunk(op, revision, entries, answer, most)
        return answer

    def _chunk(self, op: Range, revision: int, entries: list[Entry], answer: RangeResult, most: int) -> None:
        frames = answer.frames
        if (size := sum(map(len, frames))) < LONG:
            return
        if size > most:
            raise AnswerTooLargeError(most)
        cuts = cuts_of(frames)
        answer.frames, answer.size = joined(frames, cuts), size
        counts = [end - begin for begin, end in pairwise((0, *cuts))]
        starts = [entries[cut].key for cut in cuts[:-1]]
        after = _after(entries[op.limit - 1]) if answer.more else b""
        self.lists.offer(op, CachedRange(revision, answer.frames, counts, starts, after, answer.count))

    async def _built(self, op: Range, revision: int, header: int, most: int) -> RangeResult:
        """Builds a long range once for all concurrent requests; cancelled when none waits any more."""
        name = (op.key, op.end, op.limit, revision, self.lists.era, most)
        building = self._building.get(name)
        if building is None:
            building = self._building[name] = _Building(op.client)
            building.task = asyncio.ensure_future(self._build(op, revision, most, building))
        task = building.task
        assert task is not None
        building.join(op.client)
        try:
            built = await asyncio.shield(task)
        finally:
            building.wanted -= 1
            if not building.wanted:
                task.cancel()
            ended = not building.wanted or task.done()
            if ended and self._building.get(name) is building:
                del self._building[name]
        return RangeResult(header, built.frames, built.more, built.count, built.size)

    async def _build(self, op: Range, revision: int, allowed: int, building: _Building) -> RangeResult:
        index, era = self._index, self.lists.era
        chunks: list[bytes] = []
        counts: list[int] = []
        starts: list[bytes] = []
        start = op.key
        found = size = 0
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
            frames = [encoded for _, encoded in await self.frames(entries, allowed - size)]
            size += sum(map(len, frames))
            cuts = cuts_of(frames)
            chunks += joined(frames, cuts)
            counts += [end - begin for begin, end in pairwise((0, *cuts))]
            starts += [entries[cut].key for cut in (0, *cuts[:-1]) if entries]
            if last:
                break
            start = _after(entries[-1])
            await self._turns.next(building.client)
        if more and revision < index.compact_revision:
            raise GoneError
        after = (_after(entries[-1]) if entries else start) if more else b""
        count = self._counted(op, revision, after, era) if more else found
        if era == self.lists.era:
            self.lists.offer(op, CachedRange(revision, chunks, counts, starts[1:], after, count))
        return RangeResult(0, chunks, more, count, size)

    def _count(self, op: Range, revision: int, entries: list[Entry], limit: int, era: int) -> int:
        if limit and len(entries) == limit:
            return self._counted(op, revision, _after(entries[op.limit - 1]), era)
        return len(entries)

    def _counted(self, op: Range, revision: int, after: bytes, era: int) -> int:
        """Counts all keys of a range of which one page is answered; the next page starts at `after`."""
        count = self.lists.left(op, revision)
        if count is None:
            count = self._index.count(op.key, op.end, revision)
        if era == self.lists.era:
            self.lists.ended(op, revision, after, count - op.limit)
        return count

    async def _one_of_few(self, op: Range, revision: int, header: int, limit: int, most: int) -> RangeResult:
        """Limits concurrent scans: each holds the entries of its whole range, however few it returns."""
        async with self._few.one(op.client):
            return await self._range_in_slices(op, revision, header, limit, most)

    async def _range_in_slices(
        self, op: Range, revision: int, header: int, limit: int, most: int
    ) -> RangeResult:
        index, era = self._index, self.lists.era
        entries: list[Entry] = []
        looked_at = 0
        start = op.key
        while True:
            await self._turns.next(op.client)  # before the first slice too: a thousand may start in one turn
            if revision < index.compact_revision:
                raise GoneError
            block = index.scan(
                start, op.end, revision, min(_SLICE, limit - len(entries)) if limit else _SLICE
            )
            looked_at += len(block)
            entries += _filter(op, block)
            if len(block) < _SLICE or len(entries) == limit:
                break
            start = _after(block[-1])
        count = self._count(op, revision, entries, limit, era) if limit else looked_at
        answer = self._answer(op, header, entries, count, most)
        return answer if isinstance(answer, RangeResult) else await answer

    def _answer(
        self, op: Range, header: int, entries: list[Entry], count: int, most: int
    ) -> RangeResult | Awaitable[RangeResult]:
        """Sorts and pages `entries`, which passed the filters and are in order of their keys."""
        descending = op.order == SortOrder.DESCEND
        # As in etcd: any target but the key sorts, ascending if no order is given.
        if op.target == SortTarget.VALUE:
            return self._answer_by_value(op, header, entries, count, descending, most)
        if op.target != SortTarget.KEY:
            if len(entries) > AT_ONCE:
                return self._answer_sorted(op, header, entries, count, descending, most)
            entries = sorted(entries, key=_ORDERS[SortTarget(op.target)], reverse=descending)
        elif descending:
            entries = entries[::-1]
        return self._page(op, header, entries, count, most)

    def _page(
        self, op: Range, header: int, entries: list[Entry], count: int, most: int
    ) -> RangeResult | Awaitable[RangeResult]:
        """Answers the first page of `entries`, which are in the requested order."""
        more = 0 < op.limit < len(entries)
        if more:
            entries = entries[: op.limit]
        if op.keys_only:
            if len(entries) > _SLICE:
                return self._answer_bare(op, header, entries, more, count)
            return RangeResult(header, [bare_frame(entry) for entry in entries], more, count)
        frames: list[bytes | None] = []
        missing = self._values.collect(entries, frames)
        if not missing:
            complete = cast("list[bytes]", frames)
            if len(complete) > _MANY and sum(map(len, complete)) > most:
                raise AnswerTooLargeError(most)
            return RangeResult(header, complete, more, count)
        return self._answer_fetched(header, entries, frames, missing, more, count, most)

    async def _answer_bare(
        self, op: Range, header: int, entries: list[Entry], more: bool, count: int
    ) -> RangeResult:
        frames: list[bytes] = []
        for position in range(0, len(entries), _SLICE):
            frames += [bare_frame(entry) for entry in entries[position : position + _SLICE]]
            await self._turns.next(op.client)
        return RangeResult(header, frames, more, count)

    async def _answer_fetched(
        self,
        header: int,
        entries: list[Entry],
        frames: list[bytes | None],
        missing: list[Entry],
        more: bool,
        count: int,
        most: int,
    ) -> RangeResult:
        return RangeResult(header, await self._complete(entries, frames, missing, most), more, count)

    async def _answer_by_value(
        self, op: Range, header: int, entries: list[Entry], count: int, descending: bool, most: int
    ) -> RangeResult:
        await self._turns.next(op.client)  # sorting copies each value, for thousands of calls perhaps
        pairs = await sorted_in_turns(
            await self.frames(entries, most),
            lambda pair: value_of(pair[1]),
            lambda pair: len(pair[1]),
            partial(self._turns.next, op.client),
            reverse=descending,
        )
        more = 0 < op.limit < len(pairs)
        if more:
            pairs = pairs[: op.limit]
        frames = [bare_frame(entry) if op.keys_only else encoded for entry, encoded in pairs]
        return RangeResult(header, frames, more, count)

    async def _answer_sorted(
        self, op: Range, header: int, entries: list[Entry], count: int, descending: bool, most: int
    ) -> RangeResult:
        in_order = await sorted_in_turns(
            entries,
            _ORDERS[SortTarget(op.target)],
            lambda _: 0,  # numbers
            partial(self._turns.next, op.client),
            reverse=descending,
        )
        answer = self._page(op, header, in_order, count, most)
        return answer if isinstance(answer, RangeResult) else await answer

    # ---- frames by entry

    async def frames(self, entries: list[Entry], most: int = LARGEST_ANSWER) -> list[tuple[Entry, bytes]]:
        """Returns each entry with its frame. Raises GoneError, AnswerTooLargeError, DriverError."""
        cached: list[bytes | None] = []
        missing = self._values.collect(entries, cached)
        return list(zip(entries, await self._complete(entries, cached, missing, most), strict=True))

    async def frames_there(self, entries: list[Entry], most: int = LARGEST_ANSWER) -> dict[int, bytes]:
        """Returns frames by revision, for a plan; none if a row was compacted: the plan is then redone.

        Raises AnswerTooLargeError, DriverError.
        """
        try:
            return {entry.mod: encoded for entry, encoded in await self.frames(entries, most)}
        except GoneError:
            return {}

    async def _complete(
        self, entries: list[Entry], cached: list[bytes | None], missing: list[Entry], most: int
    ) -> list[bytes]:
        """Reads the missing frames, a portion at a time, so that an answer too large is noticed early."""
        left = most - sum([len(found) for found in cached if found is not None])
        fetched: dict[int, bytes] = {}
        position, rows = 0, _portion(self._usual())
        while position < len(missing):
            if left < 0:
                break
            portion = missing[position : position + rows]
            got = await self.fetch(portion)
            size = 0
            for entry in portion:
                encoded = fetched[entry.mod] = got[entry.mod]
                size += len(encoded)
            left -= size
            position += len(portion)
            rows = _portion(size // len(portion))
        if left < 0:
            raise AnswerTooLargeError(most)
        return [
            fetched[entry.mod] if found is None else found
            for entry, found in zip(entries, cached, strict=True)
        ]

    async def fetch(self, entries: Sequence[Entry]) -> dict[int, bytes]:
        """Returns frames from the database, by revision; calls made before the read starts share it.

        Raises GoneError if a row was compacted, DriverError.
        """
        self._wanted.update((entry.mod, entry) for entry in entries)
        if self._flush is None:
            self._flush = asyncio.ensure_future(self._fetch())
        fetched = await asyncio.shield(self._flush)
        if not all(entry.mod in fetched for entry in entries):
            await self.learn_compaction()
            raise GoneError
        return fetched

    async def _fetch(self) -> dict[int, bytes]:
        await asyncio.sleep(0)  # let the other tasks that are ready now join
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


def _portion(usual: int) -> int:
    """Number of rows to read at once, if each takes `usual` bytes."""
    return min(_SLICE, max(_LEAST_ROWS, _PORTION // max(1, usual)))


def _after(entry: Entry) -> bytes:
    return entry.key + b"\0"


def _plain(op: Range) -> bool:
    """Whether the limit applies while scanning: as in etcd, also with no order given, whatever the target."""
    in_order = op.order == SortOrder.NONE or (op.order == SortOrder.ASCEND and op.target == SortTarget.KEY)
    return in_order and not _filtered(op)


def _filtered(op: Range) -> bool:
    return bool(op.min_mod or op.max_mod or op.min_create or op.max_create)


def _filter(op: Range, entries: list[Entry]) -> list[Entry]:
    if not _filtered(op):
        return entries
    if op.max_mod:
        entries = [entry for entry in entries if entry.mod <= op.max_mod]
    if op.min_mod:
        entries = [entry for entry in entries if entry.mod >= op.min_mod]
    if op.max_create:
        entries = [entry for entry in entries if entry.create <= op.max_create]
    if op.min_create:
        entries = [entry for entry in entries if entry.create >= op.min_create]
    return entries
