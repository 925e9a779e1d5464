"""Reader of a snapshot to restore from, of kine's or etcd's format."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from kine.commands import etcd_snapshot_file, snapshot_file
from kine.drivers.base import DriverError

if TYPE_CHECKING:
    from kine.commands.progress import Progressing
    from kine.commands.spool import KeySink

_SQLITE = b"SQLite format 3\0"
_START = 4096


class Contents:
    """A `kine.commands.spool.KeySink` that only counts."""

    def __init__(self) -> None:
        self.revision = self.keys = self.leases = 0

    def begin(self, revision: int) -> None:
        self.revision = revision

    def lease(self, lease_id: int, ttl: int) -> None:
        self.leases += 1

    def add(self, item: Any) -> None:
        self.keys += 1


async def load(path: str, into: KeySink, progress: Progressing) -> str:
    """Reads a file into `into`; returns its format, "kine" or "etcd". Raises DriverError, OSError."""
    with open(path, "rb") as file:  # noqa: ASYNC230 - read in steps
        start = file.read(_START)
        kind = _kind(start, path)
        size = os.fstat(file.fileno()).st_size
        progress.begin("reading the file", 2 * size)  # once for its checksum
        for read in (etcd_snapshot_file if kind == "etcd" else snapshot_file).load(file, into):
            progress.advance(read)
            await asyncio.sleep(0)  # lets Ctrl-C interrupt
    return kind


def _kind(start: bytes, path: str) -> str:
    if snapshot_file.is_one(start):
        return "kine"
    if etcd_snapshot_file.is_one(start):
        return "etcd"
    if start.startswith(_SQLITE):
        raise DriverError(
            f"{path} is an SQLite database: serve from a copy of it with --endpoint sqlite://FILE, or move"
            " its keys with kine migrate --from sqlite://FILE --to URL"
        )
    raise DriverError(f"{path} is no snapshot of kine snapshot save or etcdctl snapshot save")
