"""Application of committed rows to the index, and to its dependents: values, cached ranges, leases, watchers.

Rows are applied once they are committed, alone or with the others of their group, in order of ids. Compaction
of the in-memory state runs here too, see `RowApplier.forget`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kine.drivers.base import LogTail, NewRow, Row
from kine.store.index import Entry, Index, Void
from kine.store.range_cache import RangeCache
from kine.store.reserved_key_translation import COMPACT_REV_KEY, COMPACT_REV_ROW, key_of, split_version
from kine.store.value_cache import ValueCache, frame


class Watchers(Protocol):
    """See `kine.store.watch_hub`."""

    def publish(self, entries: Sequence[Entry]) -> None: ...


class Leases(Protocol):
    """See `kine.store.leases`."""

    def seen(self, row: Row, entry: Entry) -> None: ...


class Streams(Protocol):
    """See `kine.store.range_streams`."""

    def keep(self, revision: int) -> None:
        """Called before the index forgets what was superseded up to this revision."""


def _nobody(*_: object) -> None: ...


class RowApplier:
    __slots__ = ("_keep", "_publish", "_seen", "compact_row", "index", "lists", "values")

    def __init__(self, index: Index, values: ValueCache, lists: RangeCache) -> None:
        self.index = index
        self.values = values
        self.lists = lists
        self.compact_row = False  # whether the row in which kine keeps its compact revision was seen
        self._publish: Callable[[Sequence[Entry]], None] = _nobody
        self._seen: Callable[[Row, Entry], None] = _nobody
        self._keep: Callable[[int], None] = _nobody

    def tell(self, watchers: Watchers, leases: Leases, streams: Streams) -> None:
        """Sets the receivers of changes from now on."""
        self._publish = watchers.publish
        self._seen = leases.seen
        self._keep = streams.keep

    def committed(self, rows: Sequence[NewRow], ids: Sequence[int]) -> None:
        """Applies rows this instance committed, unless rows of other writers come before or between them."""
        index = self.index
        revision = index.revision
        if not ids or list(ids) != list(range(revision + 1, revision + 1 + len(ids))):
            return
        newest = index.newest
        put = self.values.put
        entries: list[Entry] = []
        for new, row_id in zip(rows, ids, strict=True):
            name, created, deleted, create, prev, ttl, value, lease, _, _ = new
            below = newest.get(name)
            plain = created if below is None else not below.lease
            if not plain or ttl or lease or deleted or name == COMPACT_REV_ROW:
                row = Row(row_id, name, created, deleted, create, prev, ttl, value, lease, 0)
                self._apply(row, entries)
                continue
            # Fast path: what `_apply` does for nearly all rows (bench scenarios `create`, `update`).
            if created:
                entry = Entry(name, row_id, row_id, 1, 0, below)
            else:
                assert below is not None
                entry = Entry(name, row_id, create, below.version + 1, 0, below)
            index.apply(entry)
            put(row_id, frame(entry, value or b""))
            entries.append(entry)
        index.revision = ids[-1]
        if entries:
            self._publish(entries)

    def tailed(self, tail: LogTail) -> None:
        """Applies rows read from the log, except those that are applied already."""
        index = self.index
        entries: list[Entry] = []
        for row in tail.rows:
            if row.id > index.revision:
                self._apply(row, entries)
        index.revision = max(index.revision, tail.head)
        if entries:
            self._publish(entries)
        if tail.compact_revision > index.compact_revision:
            self.forget(min(tail.compact_revision, index.revision))

    def _apply(self, row: Row, entries: list[Entry]) -> None:
        index = self.index
        entry = self.entry(row, index)
        if entry is None:
            return
        index.apply(entry)
        if entry.version:
            value = row.value or b""
            if entry.key == COMPACT_REV_KEY:
                entry.version, value = split_version(value)
            self.values.put(entry.mod, frame(entry, value))
        elif isinstance(entry, Void):
            return
        entries.append(entry)

    def entry(self, row: Row, index: Index, *, anew: bool = False) -> Entry | None:
        """Returns the change a row makes to `index`, which holds all rows before it; None for kine's own row.

        `index` is the store's index or one being loaded. In the second case the leases already know the rows
        that the store's index holds; `anew` reports those to them again.
        """
        key = key_of(row)
        if key is None:
            self.compact_row = self.compact_row or row.name == COMPACT_REV_KEY
            return None
        below = index.newest.get(key)
        if row.deleted:
            if below is None:
                kind = Entry if row.prev_revision else Void  # the row it replaces may be compacted
                entry = kind(key, row.id, 0, 0, 0, None)
            elif not below.version:
                entry = Void(key, row.id, 0, 0, 0, below)
            elif not row.prev_revision:  # a gap filler, while a client has a key of the same name
                return None
            else:
                entry = Entry(key, row.id, 0, 0, 0, below)
        elif row.created:
            entry = Entry(key, row.id, row.id, 1, row.lease or row.ttl, below)
        else:
            create = row.create_revision
            if not create or (below is not None and not below.version):
                create = row.id  # an update of a deleted key, which Go kine accepts: it creates the key
            # No recorded version and no row below: Go kine compacted it, so at least one change came before.
            version = row.version or (1 if create == row.id else 2 if below is None else below.version + 1)
            entry = Entry(key, row.id, create, version, row.lease or row.ttl, below)
        leased = row.lease or row.ttl or (below is not None and below.lease)
        if leased and (anew or row.id > self.index.revision):
            self._seen(row, entry)
        return entry

    def forget(self, revision: int) -> list[Entry]:
        """Compacts to an applied revision; returns the remaining entries of the keys concerned."""
        if revision <= self.index.compact_revision:
            return []
        self._keep(revision)
        left, forgotten = self.index.compact(revision)
        self.values.drop_all(forgotten)
        self.lists.compacted()
        return left
