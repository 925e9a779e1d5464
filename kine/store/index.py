"""The index: which keys there are, and each key's revisions since the compact revision.

The idea is etcd's treeIndex. Everything about a key but its value is here, so counts, existence, paging,
compares and "which revision was current at R" cost no database read. Plain data, no I/O, no awaiting:
between two awaits a caller sees one consistent state.

A range is `key, end`: end None means the key alone, end b"" everything from key on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import cast

from sortedcontainers import SortedList

_mod = attrgetter("mod")


class Entry:
    """One change of one key. A tombstone has version 0."""

    __slots__ = ("below", "create", "key", "lease", "mod", "version")

    def __init__(
        self, key: bytes, mod: int, create: int, version: int, lease: int, below: Entry | None
    ) -> None:
        self.key = key
        self.mod = mod
        self.create = create
        self.version = version
        self.lease = lease
        self.below = below  # the change before this one, unless compacted


class Void(Entry):
    """A deletion of what was not there. Go kine writes such a row, and the key's next row replaces it.

    It is no event: nothing has changed, and a client would look in vain for what was there before.
    """

    __slots__ = ()


def in_range(key: bytes, start: bytes, end: bytes | None) -> bool:
    if end is None:
        return key == start
    return key >= start and (not end or key < end)


class Index:
    __slots__ = ("_dead", "_keys", "_turns", "_void", "compact_revision", "log", "newest", "revision")

    def __init__(self) -> None:
        self.revision = 0  # everything up to here has been applied
        self.compact_revision = 0
        self.newest: dict[bytes, Entry] = {}
        # Changes from the compact revision on, in order: what a watch can start from.
        self.log: list[Entry] = []
        self._keys = SortedList()  # every key of `newest`
        self._dead = SortedList()  # those whose newest entry is a tombstone
        # Those of `log` that make a key or end it: revision, key, and by how many it changes the count.
        self._turns: list[tuple[int, bytes, int]] = []
        self._void: list[Void] = []  # since the compact revision, in order: they are in no log

    def __len__(self) -> int:
        """Live keys."""
        return len(self._keys) - len(self._dead)

    # ---- changes

    def apply(self, entry: Entry) -> None:
        """Adds a change that is newer than all others. The caller moves `revision`."""
        key = entry.key
        below = entry.below
        if below is None:
            self._keys.add(key)
            if not entry.version:
                self._dead.add(key)
        elif entry.version:
            if not below.version:
                self._dead.remove(key)
        elif below.version:
            self._dead.add(key)
        self.newest[key] = entry
        if not entry.version and isinstance(entry, Void):
            self._void.append(entry)
            return
        self.log.append(entry)
        self._turn(entry)

    def _turn(self, entry: Entry) -> None:
        if entry.version:
            if entry.create == entry.mod and (entry.below is None or not entry.below.version):
                self._turns.append((entry.mod, entry.key, 1))
        elif entry.below is not None and entry.below.version:
            self._turns.append((entry.mod, entry.key, -1))

    def load(self, entries: Iterable[Entry]) -> None:
        """Fills an empty index with changes in order: one sort instead of an insertion a key."""
        for entry in entries:
            self.newest[entry.key] = entry
            if isinstance(entry, Void):
                self._void.append(entry)
                continue
            self.log.append(entry)
            self._turn(entry)

    def loaded(self) -> None:
        self._keys = SortedList(self.newest)
        self._dead = SortedList(key for key, entry in self.newest.items() if not entry.version)

    def names_up_to(self, revision: int) -> list[bytes]:
        """Of an index being loaded: keys whose newest change is before a revision, and no deletion."""
        return [key for key, entry in self.newest.items() if entry.version and entry.mod < revision]

    def leave_out(self, keys: set[bytes]) -> None:
        """Of an index being loaded: as if these keys had never been."""
        if keys:
            for key in keys:
                del self.newest[key]
            self.log = [entry for entry in self.log if entry.key not in keys]
            self._turns = [turn for turn in self._turns if turn[1] not in keys]

    def adopt(self, other: Index) -> None:
        """Takes over the state of `other`, which must not be used again. The revision does not go back."""
        self.newest, self.log = other.newest, other.log
        self._keys, self._dead, self._turns = other._keys, other._dead, other._turns
        self._void = other._void
        self.revision = max(self.revision, other.revision)
        self.compact_revision = max(self.compact_revision, other.compact_revision)

    def compact(self, revision: int) -> tuple[list[Entry], list[int]]:
        """Forgets changes superseded at or before `revision`.

        Returns what is left of the keys concerned, and the revisions forgotten. A tombstone at the
        revision itself stays until the next compaction: a watch may start there.
        """
        cut = bisect_left(self.log, revision + 1, key=_mod)
        touched = {entry.key for entry in self.log[:cut]}
        void = bisect_left(self._void, revision + 1, key=_mod)
        touched.update(entry.key for entry in self._void[:void])
        left = []
        forgotten = []
        for key in touched:
            above: Entry | None = None
            entry: Entry | None = self.newest.get(key)
            while entry is not None and entry.mod > revision:
                above, entry = entry, entry.below
            if entry is None:
                continue
            below, entry.below = entry.below, None
            while below is not None:
                forgotten.append(below.mod)
                below = below.below
            if entry.version or entry.mod == revision:
                left.append(entry)
            elif above is not None:
                above.below = None
            else:
                del self.newest[key]
                self._keys.remove(key)
                self._dead.remove(key)
        # The change at the revision itself can still be watched.
        if cut and self.log[cut - 1].mod == revision:
            cut -= 1
        del self.log[:cut]
        if void and self._void[void - 1].mod == revision:
            void -= 1
        del self._void[:void]
        del self._turns[: bisect_left(self._turns, (revision + 1,))]
        self.compact_revision = revision
        return left, forgotten

    # ---- questions

    def live(self, key: bytes) -> Entry | None:
        entry = self.newest.get(key)
        return entry if entry is not None and entry.version else None

    def at(self, key: bytes, revision: int) -> Entry | None:
        """The key as of a revision that is not compacted."""
        entry = self.newest.get(key)
        while entry is not None and entry.mod > revision:
            entry = entry.below
        return entry if entry is not None and entry.version else None

    def scan(self, key: bytes, end: bytes | None, revision: int, limit: int = 0) -> list[Entry]:
        """Live entries of a range as of a revision, by key; at most `limit` unless that is 0."""
        if end is None:
            entry = self.at(key, revision)
            return [entry] if entry is not None else []
        found: list[Entry] = []
        newest = self.newest
        for name in self._between(key, end):
            entry = newest[name]
            while entry.mod > revision:
                below = entry.below
                if below is None:
                    break
                entry = below
            if entry.version and entry.mod <= revision:
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    def count(self, key: bytes, end: bytes | None, revision: int) -> int:
        """Live keys of a range as of a revision.

        Logarithmic for now; for the past, as many steps as keys were made and ended since: a list's pages
        ask for the revision of its first, and most changes since are updates.
        """
        if end is None:
            return 0 if self.at(key, revision) is None else 1
        total = self._width(self._keys, key, end) - self._width(self._dead, key, end)
        if revision >= self.revision:
            return total
        turns = self._turns
        later = turns[bisect_left(turns, (revision + 1,)) :]
        if end:
            return total - sum([change for _, name, change in later if key <= name < end])
        return total - sum([change for _, name, change in later if key <= name])

    def width(self, key: bytes, end: bytes) -> int:
        """Keys of a range that `scan` looks at: those that are deleted, too."""
        return self._width(self._keys, key, end)

    def since(self, revision: int) -> int:
        """Position in `log` of the first change at or after a revision."""
        log = self.log
        if not log or log[-1].mod < revision:
            return len(log)
        return bisect_left(log, revision, key=_mod)

    def nth_change(self, after: int, count: int) -> int:
        """The revision of that change after `after`; 0 if there are fewer. Ids may leap by millions."""
        found = []
        for changes in (self.log, self._void):
            position = bisect_left(changes, after + 1, key=_mod) + count - 1
            if position < len(changes):
                found.append(changes[position].mod)
        return min(found, default=0)

    def _between(self, key: bytes, end: bytes) -> Iterator[bytes]:
        if not end:
            return cast("Iterator[bytes]", self._keys.irange(key))
        if end <= key:
            return iter(())
        return cast("Iterator[bytes]", self._keys.irange(key, end, inclusive=(True, False)))

    @staticmethod
    def _width(keys: SortedList, key: bytes, end: bytes) -> int:
        high: int = keys.bisect_left(end) if end else len(keys)
        low: int = keys.bisect_left(key)
        return max(0, high - low)
