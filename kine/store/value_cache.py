"""Cache of values by revision, each as the bytes that responses contain.

A value is kept as a frame: an encoded `mvccpb.KeyValue` behind the tag and length of field 2, which is
where RangeResponse has its `kvs` and Event its `kv`. So a response, long or short, is a join of frames:
nothing is parsed or encoded a second time. The cache is bounded by bytes and evicts the oldest frames first;
concurrent misses share one database read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kine.proto.kv_pb2 import KeyValue
from kine.store.reserved_key_translation import stored

if TYPE_CHECKING:
    from kine.store.index import Entry

_OVERHEAD = 120  # bytes a cached frame costs in addition: its object, the dict's and the queue's slots


def varint(number: int) -> bytes:
    """Protobuf's base-128 varint; a negative number as the 64-bit two's complement it stands for."""
    if 0 <= number < 128:
        return _SMALL[number]
    if 0 < number < 1 << 28:  # lengths, and the revisions of most clusters
        if number < 1 << 14:
            return bytes((number & 127 | 128, number >> 7))
        if number < 1 << 21:
            return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14 & 127 | 128, number >> 21))
    if number < 0:
        number += 1 << 64
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = [bytes((number,)) for number in range(128)]


def frame(entry: Entry, value: bytes) -> bytes:
    create, version = entry.create, entry.version
    if value and create > 0 and version > 0 and not entry.lease:
        # bench: update. The message class takes half as long again.
        key = entry.key
        encoded = b"".join(
            (b"\x0a", varint(len(key)), key, b"\x10", varint(create), b"\x18", varint(entry.mod),
             b"\x20", varint(version), b"\x2a", varint(len(value)), value)
        )  # fmt: skip
        return b"\x12" + varint(len(encoded)) + encoded
    encoded = KeyValue(
        key=entry.key,
        create_revision=entry.create,
        mod_revision=entry.mod,
        version=entry.version,
        value=value,
        lease=entry.lease,
    ).SerializeToString()
    return b"\x12" + varint(len(encoded)) + encoded


def bare_frame(entry: Entry) -> bytes:
    """The frame without the value: keys_only answers, and tombstones in events."""
    return frame(entry, b"")


def unframe(encoded: bytes) -> bytes:
    """The encoded KeyValue inside a frame."""
    position = 1
    while encoded[position] > 127:
        position += 1
    return encoded[position + 1 :]


def value_of(encoded: bytes) -> bytes:
    return KeyValue.FromString(unframe(encoded)).value


def stored_value(encoded: bytes) -> bytes:
    """The value as its row holds it."""
    kv = KeyValue.FromString(unframe(encoded))
    return stored(kv.key, kv.version, kv.value)


class ValueCache:
    """Frames by revision, within a budget of bytes."""

    __slots__ = ("_frames", "_lent", "_order", "budget", "hits", "largest", "misses", "size")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lent = 0
        self._frames: dict[int, bytes] = {}
        self._order: deque[int] = deque()  # revisions in order of insertion, some no longer in _frames
        self.size = 0
        self.largest = 0  # bytes of the largest frame ever cached
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._frames)

    def get(self, revision: int) -> bytes | None:
        return self._frames.get(revision)

    def collect(self, entries: Sequence[Entry], into: list[bytes | None]) -> list[Entry]:
        """Appends each entry's frame, or None; returns the entries that had none."""
        get = self._frames.get
        frames = [get(entry.mod) for entry in entries]
        into += frames
        if None not in frames:
            self.hits += len(frames)
            return []
        missing = [entry for entry, found in zip(entries, frames, strict=True) if found is None]
        self.hits += len(frames) - len(missing)
        self.misses += len(missing)
        return missing

    def stored(self, revision: int) -> bytes | None:
        """The value as its row holds it, if it is cached."""
        encoded = self._frames.get(revision)
        return None if encoded is None else stored_value(encoded)

    def put(self, revision: int, encoded: bytes) -> None:
        frames = self._frames
        if revision in frames:
            return
        frames[revision] = encoded
        self._order.append(revision)
        size = len(encoded)
        self.size += size + _OVERHEAD
        if size > self.largest:
            self.largest = size
        if self.size + self._lent > self.budget:
            self._fit()

    def count_lent(self, size: int) -> None:
        """Sets the bytes of the budget that others use."""
        self._lent = size
        self._fit()

    def _fit(self) -> None:
        while self.size + self._lent > self.budget and self._order:
            self.drop(self._order.popleft())

    def drop(self, revision: int) -> None:
        encoded = self._frames.pop(revision, None)
        if encoded is not None:
            self.size -= len(encoded) + _OVERHEAD

    def clear(self) -> None:
        self._frames.clear()
        self._order.clear()
        self.size = 0

    def drop_all(self, revisions: Iterable[int]) -> None:
        for revision in revisions:
            self.drop(revision)
        if len(self._order) > 2 * len(self._frames) + 1024:
            self._order = deque(self._frames)
