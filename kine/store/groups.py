"""Synced watchers by what they watch: found for the key of an event without asking them all."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kine.store.index import in_range

if TYPE_CHECKING:
    from kine.store.index import Entry
    from kine.store.watcher import Watcher


@dataclass(eq=False, slots=True)
class Group:
    """The synced watchers of one range."""

    key: bytes
    end: bytes | None
    watchers: set[Watcher] = field(default_factory=set)
    fresh: list[Entry] = field(default_factory=list)  # of the batch now being published


class Groups:
    """Groups by key, by prefix and by other ranges: what an event's key is in, without asking them all.

    Kubernetes watches prefixes. They are found by hashing the key's own prefixes, one for each length in
    use; single keys by hashing the key; only ranges that are neither are walked, in order of their start.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, Group] = {}
        self._prefixes: dict[bytes, Group] = {}
        self._lengths: dict[int, int] = {}  # of the prefixes: how many of each
        self._others: list[Group] = []
        self._starts: list[bytes] = []

    def get(self, key: bytes, end: bytes | None) -> Group:
        if end is None:
            return self._keys.setdefault(key, Group(key, end))
        if end == prefix_end(key):
            group = self._prefixes.get(key)
            if group is None:
                group = self._prefixes[key] = Group(key, end)
                self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
            return group
        position = bisect_left(self._starts, key)
        while position < len(self._starts) and self._starts[position] == key:
            if self._others[position].end == end:
                return self._others[position]
            position += 1
        group = Group(key, end)
        self._others.insert(position, group)
        self._starts.insert(position, key)
        return group

    def drop(self, group: Group) -> None:
        if group.end is None:
            del self._keys[group.key]
        elif self._prefixes.get(group.key) is group:
            del self._prefixes[group.key]
            self._lengths[len(group.key)] -= 1
            if not self._lengths[len(group.key)]:
                del self._lengths[len(group.key)]
        else:
            position = self._others.index(group)
            del self._others[position], self._starts[position]

    def all(self) -> list[Group]:
        return [*self._keys.values(), *self._prefixes.values(), *self._others]

    def holding(self, key: bytes) -> Iterable[Group]:
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
        for other in self._others:
            if other.key > key:
                break
            if in_range(key, other.key, other.end):
                found.append(other)
        return found


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that start with `prefix`, as clients compute it."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""
