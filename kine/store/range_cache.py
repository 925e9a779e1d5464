"""Cache of long ranges that are requested more than once: their frames, joined into chunks.

A cached range is valid until one of its keys changes. Changes are found at look-up, in the index's log, so
writes cost nothing extra; if a range without a limit has changed keys, only their chunks are joined again.
Answers share the chunks: however many are being sent, the bytes are in memory once. The cache is bounded by
bytes, which it borrows from the value cache's budget. Eviction is least recently used, and compaction drops
each range that was last valid before the compact revision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise

from kine.store.index import Index, in_range
from kine.store.operations import Range
from kine.store.value_cache import ValueCache

LONG = 64 * 1024  # bytes of a range worth keeping
# Whole DATA frames of HTTP/2, and just below the size at which malloc maps a block of its own.
CHUNK = 7 * 16 * 1024
_SHARE = 4  # the cache takes at most 1/_SHARE of the values' budget
_LOOKED_AT = 10_000  # changes, at one look-up: about 1 ms
_JOINED_ANEW = 4_000  # keys, likewise
_REMEMBERED = 1_024  # ranges that were requested once
_LONGEST = 1_024  # bytes of key and end of a range that is remembered
_UNDER_WAY = 4_096  # lists that are read page by page

_Name = tuple[bytes, bytes | None, int]


class CachedRange:
    """One range's frames, valid at every revision from `low` to `high`."""

    __slots__ = ("after", "chunks", "count", "counts", "high", "low", "size", "starts")

    def __init__(
        self,
        revision: int,
        chunks: list[bytes],
        counts: list[int],
        starts: list[bytes],
        after: bytes,
        count: int,
    ) -> None:
        self.low = self.high = revision
        self.chunks = chunks  # never changed in place: answers hold it
        self.counts = counts  # keys in each chunk
        self.starts = starts  # first key of each chunk but the first, which starts where the range does
        self.after = after  # where the next page starts; empty: there is none
        self.count = count
        self.size = sum(map(len, chunks))


class RangeCache:
    def __init__(self, index: Index, values: ValueCache) -> None:
        self._index = index
        self._values = values
        self._budget = values.budget // _SHARE
        self._kept: OrderedDict[_Name, CachedRange] = OrderedDict()
        self._asked: OrderedDict[_Name, None] = OrderedDict()
        self._left: OrderedDict[tuple[bytes, bytes | None, int], int] = OrderedDict()
        self.size = 0
        self.era = 0  # how often `clear` was called
        self.hits = 0
        self.misses = 0

    def find(self, op: Range, revision: int) -> CachedRange | None:
        """Returns the range as of a revision that is not compacted, if it is cached."""
        name = (op.key, op.end, op.limit)
        kept = self._kept.get(name)
        if kept is None or revision < kept.low:
            return None
        self._kept.move_to_end(name)
        if revision > kept.high and not self._brought_to(revision, name, kept):
            return None
        self.hits += 1
        return kept

    def _brought_to(self, revision: int, name: _Name, kept: CachedRange) -> bool:
        index = self._index
        if revision > index.revision:
            return False
        key, end, limit = name
        first = index.since(kept.high + 1)
        last = len(index.log) if revision == index.revision else index.since(revision + 1)
        if kept.high < index.compact_revision or last - first > _LOOKED_AT:
            self._drop(name)
            return False
        changed = {entry.key for entry in index.log[first:last] if in_range(entry.key, key, end)}
        if not changed:
            kept.high = revision
            return True
        if revision < index.revision:
            return False
        before = kept.size
        if limit or not self._join_anew(revision, name, kept, changed):
            self._drop(name)
            return False
        self.size += kept.size - before
        self._fit()
        return name in self._kept

    def _join_anew(self, revision: int, name: _Name, kept: CachedRange, changed: set[bytes]) -> bool:
        """Updates the chunks of these keys; False if that is too much work, or needs the database."""
        key, end, _ = name
        touched = sorted({bisect_right(kept.starts, changed_key) for changed_key in changed})
        if sum(kept.counts[place] for place in touched) + len(changed) > _JOINED_ANEW:
            return False
        chunks, counts, starts = list(kept.chunks), list(kept.counts), [key, *kept.starts]
        for place in reversed(touched):
            stop = starts[place + 1] if place + 1 < len(starts) else end
            entries = self._index.scan(starts[place], stop, revision)
            frames: list[bytes | None] = []
            if self._values.collect(entries, frames):
                return False
            cuts = cuts_of(frames)  # type: ignore[arg-type]  # none is missing
            chunks[place : place + 1] = joined(frames, cuts)  # type: ignore[arg-type]
            counts[place : place + 1] = [b - a for a, b in pairwise((0, *cuts))]
            starts[place : place + 1] = [starts[place], *(entries[cut].key for cut in cuts[:-1])][: len(cuts)]
        if not chunks:
            return False
        kept.chunks, kept.counts, kept.starts = chunks, counts, starts[1:]
        kept.low = kept.high = revision
        kept.count = sum(counts)
        kept.size = sum(map(len, chunks))
        return True

    def offer(self, op: Range, kept: CachedRange) -> None:
        """Caches the range if it was requested before: a range requested once costs no memory."""
        self.misses += 1
        name = (op.key, op.end, op.limit)
        known = self._kept.get(name)
        if len(op.key) + len(op.end or b"") > _LONGEST:
            return
        if kept.high > self._index.revision or (known is not None and known.high >= kept.high):
            return
        if name not in self._asked:
            self._asked[name] = None
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            return
        if kept.size > self._budget:
            return
        self._drop(name)
        self._kept[name] = kept
        self.size += kept.size
        self._fit()

    # ---- page by page

    def left(self, op: Range, revision: int) -> int | None:
        """Returns how many keys remain, if this request continues where a page has ended.

        Counting them instead takes a step for each key created or deleted since the list began, which are
        many if it is read slowly.
        """
        return self._left.get((op.key, op.end, revision))

    def ended(self, op: Range, revision: int, after: bytes, left: int) -> None:
        """Records that a page has ended, and that `left` keys of its range remain, from `after` on."""
        if len(after) + len(op.end or b"") > _LONGEST:
            return
        pages = self._left
        pages[after, op.end, revision] = left
        if len(pages) > _UNDER_WAY:
            pages.popitem(last=False)

    # ---- what is kept

    def _fit(self) -> None:
        while self.size > self._budget:
            self._drop(next(iter(self._kept)))
        self._values.count_lent(self.size)

    def _drop(self, name: _Name) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self.size -= kept.size
            self._values.count_lent(self.size)

    def compacted(self) -> None:
        """Called after the index was compacted: drops ranges whose later changes its log no longer has."""
        revision = self._index.compact_revision
        for name in [name for name, kept in self._kept.items() if kept.high < revision]:
            self._drop(name)

    def clear(self) -> None:
        """Drops everything, as the database has gone back."""
        self.era += 1
        self._kept.clear()
        self._left.clear()
        self.size = 0
        self._values.count_lent(0)


def cuts_of(frames: Sequence[bytes]) -> list[int]:
    """The end position of each chunk that a sequence of frames is divided into."""
    ends = list(accumulate(map(len, frames)))
    cuts = []
    cut = done = 0
    while cut < len(ends):
        cut = max(cut + 1, bisect_right(ends, done + CHUNK, cut))
        done = ends[cut - 1]
        cuts.append(cut)
    return cuts


def joined(frames: Sequence[bytes], cuts: Sequence[int]) -> list[bytes]:
    return [b"".join(frames[begin:end]) for begin, end in pairwise((0, *cuts))]
