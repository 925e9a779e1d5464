"""Synced watchers grouped by key or prefix, so that an event's key finds its watchers by hashing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kine.store.index import Entry
    from kine.store.watcher import Watcher

_LENGTHS = 64  # different lengths of prefixes: an event's key is looked up once for each


@dataclass(eq=False, slots=True)
class WatcherGroup:
    """The synced watchers of one key or prefix."""

    key: bytes
    end: bytes | None
    audiences: dict[object, Audience] = field(default_factory=dict)  # by client
    fresh: list[Entry] = field(default_factory=list)  # its entries in the batch now being published


@dataclass(eq=False, slots=True)
class Audience:
    """Synced watchers of one client that get the same entries: those of one group, or those of no group."""

    client: object
    group: WatcherGroup | None
    watchers: dict[Watcher, None] = field(default_factory=dict)


class WatcherGroups:
    """Watcher groups by key and by prefix.

    Kubernetes watches prefixes. They are found by hashing the key's own prefixes, one for each length in
    use; single keys by hashing the key. Watchers of other ranges, and of prefixes beyond `_LENGTHS` different
    lengths, form one audience per client, in which each watcher's range is compared with the key.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, WatcherGroup] = {}
        self._prefixes: dict[bytes, WatcherGroup] = {}
        self._lengths: dict[int, int] = {}  # of the prefixes: how many of each
        self.others: dict[object, Audience] = {}  # by client

    def join(self, watcher: Watcher) -> None:
        client = watcher.sink.client
        group = self._group(watcher.key, watcher.end)
        audiences = self.others if group is None else group.audiences
        audience = audiences.get(client)
        if audience is None:
            audience = audiences[client] = Audience(client, group)
        audience.watchers[watcher] = None
        watcher.audience = audience

    def leave(self, watcher: Watcher) -> None:
        audience, watcher.audience = watcher.audience, None
        assert audience is not None
        del audience.watchers[watcher]
        if audience.watchers:
            return
        group = audience.group
        if group is None:
            del self.others[audience.client]
            return
        del group.audiences[audience.client]
        if not group.audiences:
            self._drop(group)

    def _group(self, key: bytes, end: bytes | None) -> WatcherGroup | None:
        if end is None:
            group = self._keys.get(key)
            if group is None:
                group = self._keys[key] = WatcherGroup(key, end)
            return group
        if end != prefix_end(key):
            return None
        group = self._prefixes.get(key)
        if group is None:
            if len(key) not in self._lengths and len(self._lengths) >= _LENGTHS:
                return None
            group = self._prefixes[key] = WatcherGroup(key, end)
            self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
        return group

    def _drop(self, group: WatcherGroup) -> None:
        if group.end is None:
            del self._keys[group.key]
            return
        del self._prefixes[group.key]
        self._lengths[len(group.key)] -= 1
        if not self._lengths[len(group.key)]:
            del self._lengths[len(group.key)]

    def watchers(self) -> Iterator[Watcher]:
        for group in (*self._keys.values(), *self._prefixes.values()):
            for audience in tuple(group.audiences.values()):
                yield from tuple(audience.watchers)
        for audience in tuple(self.others.values()):
            yield from tuple(audience.watchers)

    def holding(self, key: bytes) -> list[WatcherGroup]:
        """Groups of this key, and of its prefixes."""
        found = []
        group = self._keys.get(key)
        if group is not None:
            found.append(group)
        if self._prefixes:
            for length in self._lengths:
                group = self._prefixes.get(key[:length])
                # A key shorter than the length is its own slice, and no prefix of that length.
                if group is not None and len(group.key) == length:
                    found.append(group)
        return found


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that start with `prefix`, as clients compute it."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""
