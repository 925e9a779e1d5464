"""Reader and writer of bbolt files, the format of etcd's database and snapshots.

A file consists of pages of one size. Pages 0 and 1 are meta pages; the valid one with the higher transaction
id names the root page of the root bucket, whose values are other buckets. A bucket is a tree of branch and
leaf pages with keys in order; a small bucket is a page inside its value. A page that overflows continues in
the pages after it. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO

MAGIC = 0xED0CDAED
VERSION = 2
BRANCH, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10
IS_BUCKET = 0x01  # flag of a leaf element

PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
META_BODY = struct.Struct(
    "<IIIIQQQQQ"
)  # magic, version, page size, flags, root, sequence, freelist, pages, txid
CHECKSUM = struct.Struct("<Q")
BRANCH_ELEMENT = struct.Struct("<IIQ")  # position, key size, page
LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position, key size, value size
BUCKET = struct.Struct("<QQ")  # root page, or 0 for a page inside this value; sequence

PAGE_SIZE = 4096  # of the files written here
_FREELIST_PAGE, _FIRST_FREE = 2, 3
_PAGE_SIZES = [1024 << power for power in range(7)]


class BboltError(Exception):
    """The file is not a bbolt file, or is damaged."""


def fnv64a(data: bytes) -> int:
    """The checksum of a meta page: 64-bit FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def is_bbolt(start: bytes) -> bool:
    """True if a file that starts with these bytes may be a bbolt file."""
    return any(magic == MAGIC for magic in struct.unpack_from("<I", start.ljust(20, b"\0"), PAGE.size))


class BboltReader:
    """The buckets of a complete file in memory, or mapped. Every method may raise BboltError."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        metas = [meta for meta in map(self._meta, (0, *_PAGE_SIZES)) if meta is not None]
        if not metas:
            raise BboltError("neither of its two first pages is whole")
        _, self._page_size, self._root = max(metas)

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """Yields keys and values in key order; none if there is no such bucket."""
        for found, value in self._guarded(self._root):
            if found == name:
                root, _ = BUCKET.unpack_from(value)
                yield from self._guarded(root) if root else _elements(value[BUCKET.size :])
                return

    def _meta(self, offset: int) -> tuple[int, int, int] | None:
        """Transaction id, page size and root page of the valid meta page at this offset, or None."""
        if offset + PAGE.size + META_BODY.size + CHECKSUM.size > len(self._data):
            return None
        _, flags, _, _ = PAGE.unpack_from(self._data, offset)
        body = bytes(self._data[offset + PAGE.size : offset + PAGE.size + META_BODY.size])
        magic, version, page_size, _, root, _, _, _, txid = META_BODY.unpack(body)
        (checksum,) = CHECKSUM.unpack_from(self._data, offset + PAGE.size + META_BODY.size)
        whole = (flags & META, magic, version, checksum) == (META, MAGIC, VERSION, fnv64a(body))
        return (txid, page_size, root) if whole and page_size in _PAGE_SIZES else None

    def _guarded(self, root: int) -> Iterator[tuple[bytes, memoryview]]:
        try:
            yield from self._tree(root)
        except struct.error:
            raise BboltError("a page ends too early") from None

    def _tree(self, root: int) -> Iterator[tuple[bytes, memoryview]]:
        seen: set[int] = set()
        left = [root]
        while left:
            number = left.pop()
            if number in seen:
                raise BboltError("a page is in its tree twice")
            seen.add(number)
            offset = number * self._page_size
            told, flags, count, overflow = PAGE.unpack_from(self._data, offset)
            page = self._data[offset : offset + (overflow + 1) * self._page_size]
            if told != number:
                raise BboltError("a page has another's number")
            if flags & BRANCH:
                children = [
                    BRANCH_ELEMENT.unpack_from(page, PAGE.size + index * BRANCH_ELEMENT.size)[2]
                    for index in range(count)
                ]
                left += reversed(children)
            elif flags & LEAF:
                yield from _elements(page)
            else:
                raise BboltError("a page in a tree is neither branch nor leaf")


def _elements(page: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    _, _, count, _ = PAGE.unpack_from(page)
    for index in range(count):
        at = PAGE.size + index * LEAF_ELEMENT.size
        _, position, key_size, value_size = LEAF_ELEMENT.unpack_from(page, at)
        start = at + position
        middle, end = start + key_size, start + key_size + value_size
        if end > len(page):
            raise BboltError("an element reaches beyond its page")
        yield bytes(page[start:middle]), page[middle:end]


class Tree:
    """A bucket written from keys added in order: leaf pages at once, branch pages at the end."""

    def __init__(self, pages: _Pages) -> None:
        self._pages = pages
        self._leaf: list[tuple[bytes, bytes]] = []
        self._size = PAGE.size
        self._leaves: list[tuple[bytes, int]] = []  # first key, page

    def add(self, key: bytes, value: bytes) -> None:
        size = LEAF_ELEMENT.size + len(key) + len(value)
        if self._leaf and self._size + size > PAGE_SIZE:
            self._flush()
        self._leaf.append((key, value))
        self._size += size

    def finish(self) -> int:
        """Writes the remaining pages; returns the number of the root page."""
        if self._leaf or not self._leaves:
            self._flush()
        level = self._leaves
        while len(level) > 1:
            level = [(group[0][0], self._pages.write(BRANCH, *_branch(group))) for group in _grouped(level)]
        return level[0][1]

    def _flush(self) -> None:
        first = self._leaf[0][0] if self._leaf else b""
        self._leaves.append((first, self._pages.write(LEAF, *_leaf(self._leaf, 0))))
        self._leaf, self._size = [], PAGE.size


class BboltWriter:
    """Writes a new file of buckets."""

    def __init__(self, file: IO[bytes]) -> None:
        self._pages = _Pages(file, _FIRST_FREE)
        self._roots: dict[bytes, int] = {}

    def tree(self) -> Tree:
        return Tree(self._pages)

    def bucket(self, name: bytes, tree: Tree) -> None:
        """Finishes the tree and stores it as the bucket of this name."""
        self._roots[name] = tree.finish()

    def finish(self) -> None:
        buckets = [(name, BUCKET.pack(root, 0)) for name, root in sorted(self._roots.items())]
        root = self._pages.write(LEAF, *_leaf(buckets, IS_BUCKET))
        self._pages.write_at(_FREELIST_PAGE, FREELIST, 0, b"")
        for number, transaction in ((0, 2), (1, 1)):
            body = META_BODY.pack(
                MAGIC, VERSION, PAGE_SIZE, 0, root, 0, _FREELIST_PAGE, self._pages.next, transaction
            )
            self._pages.write_at(number, META, 0, body + CHECKSUM.pack(fnv64a(body)))


class _Pages:
    def __init__(self, file: IO[bytes], first: int) -> None:
        self._file = file
        self.next = first
        file.seek(first * PAGE_SIZE)

    def write(self, flags: int, count: int, body: bytes) -> int:
        number = self.next
        pages = -(-(PAGE.size + len(body)) // PAGE_SIZE)
        self._file.write(PAGE.pack(number, flags, count, pages - 1) + body)
        self._file.write(bytes(pages * PAGE_SIZE - PAGE.size - len(body)))
        self.next += pages
        return number

    def write_at(self, number: int, flags: int, count: int, body: bytes) -> None:
        self._file.seek(number * PAGE_SIZE)
        self._file.write((PAGE.pack(number, flags, count, 0) + body).ljust(PAGE_SIZE, b"\0"))


def _leaf(items: Sequence[tuple[bytes, bytes]], flags: int) -> tuple[int, bytes]:
    """Number of elements and body of a leaf page."""
    parts = []
    position = len(items) * LEAF_ELEMENT.size  # of an element's key, counted from the element itself
    for key, value in items:
        parts.append(LEAF_ELEMENT.pack(flags, position, len(key), len(value)))
        position += len(key) + len(value) - LEAF_ELEMENT.size
    return len(items), b"".join(chain(parts, chain.from_iterable(items)))


def _branch(children: Sequence[tuple[bytes, int]]) -> tuple[int, bytes]:
    parts = []
    position = len(children) * BRANCH_ELEMENT.size
    for key, page in children:
        parts.append(BRANCH_ELEMENT.pack(position, len(key), page))
        position += len(key) - BRANCH_ELEMENT.size
    return len(children), b"".join(chain(parts, [key for key, _ in children]))


def _grouped(children: list[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
    """Groups of as many children as fit in a page. The last has at least two, as a branch page must."""
    most = (PAGE_SIZE - PAGE.size) // (BRANCH_ELEMENT.size + max(len(key) for key, _ in children))
    groups = [children[start : start + most] for start in range(0, len(children), most)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-1].insert(0, groups[-2].pop())
    return groups
