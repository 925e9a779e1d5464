"""Disk reserve: a file next to the database, truncated when the disk is full so that kine can compact.

A deletion appends a row, and a compaction writes the pages it frees to the write-ahead log first: on a full
disk neither is possible, and nothing could ever be stored again. Writes that add keys must not use that
space: they are refused until the reserve exists again, or as much is free in the database's own pages.

An empty file shows other processes, and the next start, that the reserve was given up.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger(__name__)

SUFFIX = "-reserve"
SIZE = 4 * 1024 * 1024  # bytes
_SHARE = 10  # on a small disk, the reserve is 1/_SHARE of it
_PAGES = (
    "SELECT page_count * page_size, freelist_count * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
)
_LITTLE = 64 * 1024 * 1024  # bytes on the disk
_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


class DiskReserve:
    def __init__(self, path: str, *, wanted: bool) -> None:
        self._path = path
        self._name = f"{path}{SUFFIX}"
        self._folder = os.path.dirname(path) or "."
        disk = os.statvfs(self._folder)
        self._wanted = min(SIZE, disk.f_blocks * disk.f_frsize // _SHARE) if wanted else 0

    @property
    def size(self) -> int:
        """Bytes of the reserve file; 0: given up; -1: there is none."""
        return _size(self._name)

    def keep(self) -> bool:
        """Creates the reserve if there is space. False if it was given up and there is no space for it."""
        if not self._wanted:
            return True
        size = self.size
        if size <= 0 and self._free() >= 2 * self._wanted:  # the database needs room, too
            try:
                self._make()
            except OSError as error:
                if error.errno not in _OF_SPACE:
                    log.warning("there is no reserve for a full disk: %s: %s", self._name, error.strerror)
                    self._wanted = 0
                    return True
            else:
                return True
        return size != 0

    def _make(self) -> None:
        file = os.open(self._name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            try:
                os.posix_fallocate(file, 0, self._wanted)
            except OSError:
                os.ftruncate(file, 0)
                raise
        finally:
            os.close(file)

    def give_up(self) -> bool:
        """Truncates the reserve; returns whether that freed space."""
        if not self._wanted or self.size <= 0:
            return False
        try:
            os.truncate(self._name, 0)
        except OSError:
            return False
        log.warning("no space left for %s: using the reserve to delete and to compact", self._path)
        return True

    def admits(self, connection: sqlite3.Connection, size: int, copy_log: Callable[[], bool]) -> bool:
        """Whether `size` bytes may be added without using the space reserved for deletions and compactions.

        They go to the log first and then to the file, which must have space by then. `copy_log` checkpoints
        the log, and returns whether it is written from its start again.
        """
        if not self._wanted:
            return True
        there = self.keep()
        free = self._free()
        if there and free >= _LITTLE + 2 * size:
            return True
        pages, spare = map(int, connection.execute(_PAGES).fetchone())
        if not there:
            spare -= self._wanted
            if spare < 0:
                return False
        growth = max(0, size - spare)
        lacking = max(0, pages - _size(self._path))
        # The file must never lack more than the reserve can give.
        if lacking > self._wanted // 2 or free < lacking + growth + size:
            copied, free = copy_log(), self._free()
            if copied:
                return free >= growth + max(0, size - _size(f"{self._path}-wal"))
        return free >= lacking + growth + size

    def short(self) -> bool:
        """Whether the disk may soon be full."""
        return self._free() < _LITTLE

    def _free(self) -> int:
        with suppress(OSError):
            disk = os.statvfs(self._folder)
            return disk.f_bavail * disk.f_frsize
        return 0


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return -1
