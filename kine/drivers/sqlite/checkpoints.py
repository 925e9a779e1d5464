"""Copying the write-ahead log into the file, beside the writer.

Left to SQLite, a commit does it now and then, and all writes wait meanwhile: for the log's pages to reach
the disk, and for the file's. Here another thread copies, again and again until little is left; that little
is copied in the writer's own thread, because only a log that is copied whole is begun anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from kine.drivers.base import DriverError, NewRow

log = logging.getLogger(__name__)

_PAGES = 12_000  # of 4 KiB, after which it is time
_PAGES_IF_SHORT = 500  # where the disk is nearly full: the file may have to grow by as much
_FEW = 400  # pages, which the writer may copy itself: a millisecond or two and two calls of fsync
_PASSES = 12
_PAGE = 4096
_ROW_PAGES = 6  # that a row changes, until it has been measured
_REMOVED = 1.5  # as many rows' pages does a removed one change


class Copied(NamedTuple):
    """What SQLite tells of a checkpoint. Of a file that is not in WAL mode, -1 and -1."""

    busy: int
    pages: int  # in the log when it began
    copied: int  # of them, in the file by now


class Checkpoints:
    def __init__(
        self,
        beside: Callable[[], Awaitable[Copied]],
        between: Callable[[], Awaitable[Copied]],
        short: Callable[[], bool] = lambda: False,
    ) -> None:
        self._beside = beside  # while the writer goes on
        self._between = between  # in the writer's turn
        self._short = short  # of space on the disk
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
        """Rows were compacted: each from a page of its own of the table and of every index (measured)."""
        self._rows += rows * _REMOVED
        self._if_due()

    def _if_due(self) -> None:
        if self._task is not None or self._waiting <= _PAGES_IF_SHORT:
            return
        if self._waiting > _PAGES or self._short():
            self._task = asyncio.create_task(self._run(), name="checkpoint")

    @property
    def _waiting(self) -> float:
        """Pages appended since the last pass, by estimate: SQLite does not tell before it copies them."""
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
