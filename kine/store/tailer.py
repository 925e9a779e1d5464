"""Tailing of the log: applies to the index what other writers append."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from kine.drivers.base import DriverError, Log, LogTail

if TYPE_CHECKING:
    from kine.store.index import Index

log = logging.getLogger(__name__)

_RETRY_FIRST = 0.1  # seconds
_RETRY_LAST = 2.0
_LOOK = 0.005  # seconds until the rest of a write is looked for again
_REST = 0.25  # seconds the rest may take: a Go kine transaction may hold a revision in the middle of it
_DOUBTS = 3  # queries for the newest revision before the database is taken to have gone back
_DOUBT = 0.05  # seconds between them


class Applying(Protocol):
    """See `kine.store.apply_rows`."""

    index: Index

    def tailed(self, tail: LogTail) -> None: ...


class Loading(Protocol):
    """See `kine.store.load_index`."""

    async def reload(self, why: str) -> None: ...

    async def rewind(self) -> None: ...


class Commits(Protocol):
    """This instance's own commits; see `kine.store.write_queue`."""

    @property
    def committing(self) -> bool: ...

    async def settled(self) -> None: ...


class Tailer:
    def __init__(
        self,
        driver: Log,
        applier: Applying,
        loader: Loading,
        commits: Commits,
        *,
        batch: int,
    ) -> None:
        self._driver = driver
        self._index = applier.index
        self._applier = applier
        self._loader = loader
        self._commits = commits
        self._batch = batch  # rows read at once
        self._one = asyncio.Lock()

    async def doubt(self) -> None:
        """Checks whether the database ends before the applied revision: a failover may have lost commits."""
        async with self._one:
            await self._doubt()

    async def rewind(self) -> None:
        """Reloads after the database has given a revision a second time."""
        async with self._one:
            log.error("the database gives revisions anew: commits were lost; cancelling every watch")
            await self._loader.rewind()

    async def _doubt(self) -> None:
        for _ in range(_DOUBTS):
            seen = self._index.revision
            newest = await self._driver.newest()
            if newest >= seen:
                return
            await asyncio.sleep(_DOUBT)
        log.error(
            "the database ends at revision %d, and this instance has seen %d: commits were lost, most likely"
            " by a failover to a replica that had not received them; loading anew, cancelling every watch",
            newest,
            seen,
        )
        await self._loader.rewind()

    async def reach(self, revision: int) -> None:
        """As `catch_up`, but waits for this instance's own commits first. The writer must not call it."""
        while self._index.revision < revision and self._commits.committing:
            await self._commits.settled()
        await self.catch_up(revision)

    async def catch_up(self, revision: int) -> None:
        """Returns when everything up to `revision` is applied. Raises DriverError."""
        index = self._index
        while index.revision < revision:
            async with self._one:
                if index.revision < revision:
                    await self._step()

    async def _step(self) -> None:
        after = self._index.revision
        tail = await self._whole_writes(after)
        if overtaken(tail, after):
            why = (
                f"others have compacted to revision {tail.compact_revision} while this instance was away"
                f" at {after}"
            )
            log.warning("loading the index anew, as %s", why)
            await self._loader.reload(why)
        elif tail.rows:
            self._applier.tailed(tail)
        else:
            self._applier.tailed(tail)
            if await self._driver.newest() < after:
                await self._doubt()

    async def _whole_writes(self, after: int) -> LogTail:
        """Returns the next rows, ending at the end of a write: a read in the middle would see half of it."""
        limit = self._batch
        waited = 0.0
        while True:
            tail = await self._driver.tail(after, limit)
            rows = tail.rows
            count = len(rows)
            if rows and rows[-1].id == tail.head:  # else the ids that follow have no rows any more
                while count and rows[count - 1].more:
                    count -= 1
            if count == len(rows):
                return tail
            if count:
                return LogTail(rows[:count], rows[count - 1].id, tail.compact_revision)
            if len(rows) >= limit:
                limit *= 2
            elif waited < _REST:
                await asyncio.sleep(_LOOK)
                waited += _LOOK
            else:
                return tail

    async def run(self) -> None:
        index = self._index
        retry = 0.0
        while True:
            try:
                await self._driver.changed(index.revision)
                if self._commits.committing:
                    await self._commits.settled()
                    continue
                async with self._one:
                    await self._step()
                if retry:
                    log.info("the database answers again")
                    retry = 0.0
            except DriverError as error:
                if not retry:
                    log.warning("following the database failed, trying on: %s", error)
                retry = min(_RETRY_LAST, retry * 2 or _RETRY_FIRST)
                await asyncio.sleep(retry)
            except Exception:
                log.exception("following the database failed")
                retry = _RETRY_LAST
                await asyncio.sleep(retry)


def overtaken(tail: LogTail, after: int) -> bool:
    """Whether rows after `after` were compacted away before this instance read them.

    One of them may be a deletion, which leaves no trace except that the key's row is missing, too.
    """
    compacted = tail.compact_revision
    if compacted <= after + 1:
        return False
    if not tail.rows:
        return True
    seen = sum(row.id < compacted for row in tail.rows)
    return seen < min(compacted - 1, tail.rows[-1].id) - after
