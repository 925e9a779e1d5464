"""Checkpoints: copying the write-ahead log into the database file, concurrently with the writer.

With SQLite's automatic checkpoints a commit does it now and then, and all writes wait meanwhile: for the
log's pages to reach the disk, and for the file's. Here another thread copies, repeatedly, until little is
left. The rest is copied in the writer's own thread, because SQLite restarts the log only when all of it is
copied.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from kine.drivers.base import DriverError, NewRow

log = logging.getLogger(__name__)

_PAGES = 12_000  # of 4 KiB, after which a checkpoint is due
_PAGES_IF_SHORT = 500  # likewise, if the disk is nearly full: the file may have to grow by as much
_FEW = 400  # pages that the writer may copy itself: a millisecond or two and two calls of fsync
_PASSES = 12
_PAGE = 4096
_ROW_PAGES = 6  # pages that a row changes, until it has been measured
_REMOVED = 1.5  # pages that a removed row changes, relative to an appended one


class Copied(NamedTuple):
    """Result row of PRAGMA wal_checkpoint. For a file that is not in WAL mode, both counts are -1."""

    busy: int
    pages: int  # in the log when it began
    copied: int  # how many of them are in the file by now


class Checkpoints:
    def __init__(
        self,
        beside: Callable[[], Awaitable[Copied]],
        between: Callable[[], Awaitable[Copied]],
        short: Callable[[], bool] = lambda: False,
    ) -> None:
        self._beside = beside  # runs a checkpoint concurrently with the writer
        self._between = between  # runs a checkpoint in the writer's thread
        self._short = short  # whether the disk is nearly full
        self._task: asyncio.Task[None] | None = None
        self._rows = 0.0  # since the last pass; weighted by size
        self._before = 0  # pages in the log at the last pass
        self._pages_a_row = float(_ROW_PAGES)

    def appended(self, rows: Sequence[NewRow]) -> None:
        size = 0
        for row in rows:
            if row.value is not None:
                size += len(row.value)
        self._rows += len(rows) + size / (_PAGE * _ROW_PAGES / 2)
        self._if_due()

    def removed(self, rows: int) -> None:
        """Counts compacted rows: each was on a page of its own of the table and of every index (measured)."""
        self._rows += rows * _REMOVED
        self._if_due()

    def _if_due(self) -> None:
        if self._task is not None or self._waiting <= _PAGES_IF_SHORT:
            return
        if self._waiting > _PAGES or self._short():
            self._task = asyncio.create_task(self._run(), name="checkpoint")

    @property
    def _waiting(self) -> float:
        """Estimate of the pages appended since the last pass: SQLite reports them only after a checkpoint."""
        return self._rows * self._pages_a_row

    async def _run(self) -> None:
        try:
            for _ in range(_PASSES):
                rows, self._rows = self._rows, 0.0
                pages = (await self._beside()).pages
                if rows and pages > self._before:
                    self._pages_a_row = (pages - self._before) / rows
                self._before = pages
                if self._waiting <= _FEW:
                    break
            self._rows = 0.0
            rest = await self._between()
            self._before = 0 if rest.copied == rest.pages else rest.pages
        except DriverError as error:
            log.warning("copying the write-ahead log into the file failed: %s", error)
        finally:
            self._task = None

    async def finish(self) -> None:
        if self._task is not None:
            await self._task
