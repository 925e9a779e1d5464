"""Streaming of ranges of any length: all parts are of one revision, and few of them are in memory.

A short range is read as any other, from the caches that lists share. A long one is read a block of keys at a
time, without adding to the caches, which it would only flush; a slow reader holds up one block. Compaction
does not end a stream: the entries that compaction removes from the streamed revision are kept first, up to
`_KEPT` bytes for all streams.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import NamedTuple, Protocol

from kine.fair_queue import FairSemaphore, FairTurns
from kine.store.errors import AnswerTooLargeError, CompactedError
from kine.store.index import Entry, Index, in_range
from kine.store.operations import Range, RangeResult
from kine.store.range_select import FetchValues, RangeReader
from kine.store.reserved_key_translation import shown
from kine.store.txn_plan import check_revision
from kine.store.value_cache import ValueCache, bare_frame, frame

_WHOLE = 16 * 1024 * 1024  # bytes of a range that is read at once
_FIRST = 64 * 1024  # bytes of the first part, so that the client can start early
_FEW, _MOST = 32, 256  # keys of a block: the sizes of their values are not known beforehand
_AT_ONCE = 4  # blocks being read for all streams
_KEPT = 32 * 1024 * 1024  # bytes that compactions have taken from the database and streams still need


class End(NamedTuple):
    """Totals that come with the last part."""

    revision: int
    more: bool
    total: int


class Part(NamedTuple):
    frames: Sequence[
        bytes
    ]  # see `kine.store.value_cache`; never empty but in the only part of an empty range
    end: End | None


class _View:
    """The part of a range at a revision that is not streamed yet."""

    __slots__ = ("client", "end", "gone", "kept", "keys_only", "revision", "start")

    def __init__(self, op: Range, revision: int) -> None:
        self.start = op.key
        self.end = op.end
        self.keys_only = op.keys_only
        self.client = op.client
        self.revision = revision
        self.gone = False
        # By key: the entry that compaction removed from the index, and its frame unless the row still exists.
        self.kept: dict[bytes, tuple[Entry, bytes | None]] = {}


class ReadWhole(Protocol):
    """Reads a range of at most `most` bytes, and retries if it was compacted meanwhile."""

    def __call__(self, op: Range, most: int) -> RangeResult | Awaitable[RangeResult]: ...


class RangeStreams:
    def __init__(
        self,
        index: Index,
        values: ValueCache,
        reads: RangeReader,
        fetch: FetchValues,
        turns: FairTurns,
    ) -> None:
        self._index = index
        self._values = values
        self._reads = reads
        self._fetch = fetch
        self._turns = turns
        self._views: set[_View] = set()
        self._reading = FairSemaphore(_AT_ONCE)

    async def parts(self, op: Range, most: int, read_whole: ReadWhole) -> AsyncGenerator[Part, None]:
        """Yields a range in order of keys, without filters; a part has `most` bytes at most, or one key.

        A small range is read by `read_whole`.

        Raises StoreError, DriverError; CompactedError midway if the rest can no longer be read.
        """
        if op.end is None or op.count_only or self._reads.expected(op) <= _WHOLE:
            try:
                answer = read_whole(op, 2 * _WHOLE)
                result = answer if isinstance(answer, RangeResult) else await answer
            except AnswerTooLargeError:
                pass  # its values are larger than estimated
            else:
                for part in _divided(result, most):
                    yield part
                return
        index = self._index
        check_revision(op, index)
        now = index.revision
        revision = op.revision if op.revision > 0 else now
        kept = self._reads.lists.find(op, revision) if not op.keys_only else None
        if kept is not None:
            whole = RangeResult(now, kept.chunks, bool(kept.after), kept.count, kept.size)
            for part in _divided(whole, most):
                yield part
            return
        count = index.count(op.key, op.end, revision)
        view = _View(op, revision)
        self._views.add(view)
        try:
            left = min(op.limit, count) if op.limit > 0 else count
            end = End(now, left < count, count)
            async for frames in self._told(view, left, most):
                yield Part(frames, None if left > len(frames) else end)
                left -= len(frames)
            if not count:
                yield Part((), end)
        finally:
            self._views.discard(view)

    async def _told(self, view: _View, left: int, most: int) -> AsyncGenerator[list[bytes], None]:
        part: list[bytes] = []
        size, enough, keys = 0, min(_FIRST, most), _FEW
        while left:
            async with self._reading.one(view.client):
                block = await self._block(view, min(keys, left))
            left -= len(block)
            read = 0
            for encoded in block:
                if part and size + len(encoded) > most:
                    yield part
                    part, size, enough = [], 0, most
                part.append(encoded)
                size += len(encoded)
                read += len(encoded)
            if part and (size >= enough or not left):
                yield part
                part, size, enough = [], 0, most
            keys = min(_MOST, 2 * keys) if read < most // 2 else max(_FEW, keys // 2)
            await self._turns.next(view.client)

    async def _block(self, view: _View, most: int) -> list[bytes]:
        """Returns the frames of the next keys, and moves the view past them. Raises CompactedError."""
        for _ in range(3):
            entries = self._scan(view, most)
            frames = await self._frames(view, entries)
            if frames is not None:
                for entry in entries:
                    view.kept.pop(entry.key, None)
                view.start = entries[-1].key + b"\0"
                return frames
            # Compacted between the look-ups in index and database: here, so it is kept by now, or by others.
            await self._reads.learn_compaction()
        raise CompactedError(self._index.compact_revision)

    def _scan(self, view: _View, most: int) -> list[Entry]:
        if view.gone:
            raise CompactedError(self._index.compact_revision)
        entries = self._index.scan(view.start, view.end, view.revision, most)
        if view.kept:
            found = {entry.key for entry in entries}
            entries += [entry for key, (entry, _) in view.kept.items() if key not in found]
            entries.sort(key=lambda entry: entry.key)
            del entries[most:]
        if not entries:  # fewer than were counted at the start
            raise CompactedError(self._index.compact_revision)
        return entries

    async def _frames(self, view: _View, entries: list[Entry]) -> list[bytes] | None:
        if view.keys_only:
            return [bare_frame(entry) for entry in entries]
        frames: list[bytes | None] = []
        self._values.collect(entries, frames)
        for place, entry in enumerate(entries):
            if frames[place] is None and entry.key in view.kept:
                frames[place] = view.kept[entry.key][1]
        missing = [entry for entry, found in zip(entries, frames, strict=True) if found is None]
        rows = await self._fetch([entry.mod for entry in missing]) if missing else {}
        complete: list[bytes] = []
        for entry, found in zip(entries, frames, strict=True):
            encoded = found
            if encoded is None:
                value = rows.get(entry.mod)
                if value is None:
                    return None
                encoded = frame(entry, shown(entry.key, value))
            complete.append(encoded)
        return complete

    # ---- compaction

    def keep(self, revision: int) -> None:
        """Keeps the entries still needed that the index is about to forget, superseded up to `revision`."""
        index = self._index
        for view in self._views:
            if view.revision >= revision or view.gone:
                continue
            first = index.since(max(view.revision, index.compact_revision) + 1)
            for changed in index.log[first : index.since(revision + 1)]:
                key = changed.key
                if key in view.kept or key < view.start or not in_range(key, view.start, view.end):
                    continue
                entry = index.at(key, view.revision)
                if entry is not None:
                    encoded = bare_frame(entry) if view.keys_only else self._values.get(entry.mod)
                    view.kept[key] = entry, encoded

    async def save(self) -> None:
        """Reads the kept entries' rows, which the database is about to delete. Raises DriverError."""
        held = sum(len(encoded or b"") for view in self._views for _, encoded in view.kept.values())
        for view in tuple(self._views):
            missing = [entry for entry, encoded in view.kept.values() if encoded is None]
            for place in range(0, len(missing), _FEW):
                block = missing[place : place + _FEW]
                rows = await self._fetch([entry.mod for entry in block])
                for entry in block:
                    if entry.mod in rows and entry.key in view.kept:  # else it has been streamed meanwhile
                        encoded = frame(entry, shown(entry.key, rows[entry.mod]))
                        view.kept[entry.key] = entry, encoded
                        held += len(encoded)
                if held > _KEPT:
                    view.gone = True
                    view.kept.clear()
                    break

    def lose(self, revision: int) -> None:
        """Called when the index was replaced by one without the entries superseded up to `revision`."""
        for view in self._views:
            if view.revision < revision:
                view.gone = True
                view.kept.clear()


def _divided(result: RangeResult, most: int) -> list[Part]:
    end = End(result.revision, result.more, result.count)
    parts: list[list[bytes]] = [[]]
    size = 0
    for piece in result.frames:
        if parts[-1] and size + len(piece) > most:
            parts.append([])
            size = 0
        parts[-1].append(piece)
        size += len(piece)
    return [Part(frames, end if place == len(parts) else None) for place, frames in enumerate(parts, 1)]
