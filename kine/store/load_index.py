"""Loading of the whole index from the database, and creation of the rows that every kine needs there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from kine.drivers.base import (
    DriverError,
    LoadedInParts,
    Log,
    NewRow,
    OutOfRevisionsError,
    OvertakenError,
    Row,
    Write,
)
from kine.store.index import Entry, Index
from kine.store.reserved_key_translation import COMPACT_REV_KEY, HEALTH_KEY, HEALTH_VALUE, split_version

if TYPE_CHECKING:
    from kine.store.apply_rows import RowApplier

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 5.0  # seconds, in the log while loading

EntryOf = Callable[[Row, Index], Entry | None]  # see `kine.store.apply_rows.RowApplier.entry`


@dataclass(slots=True)
class LoadProgress:
    """Progress and reason of the current load of the index; between loads, the values of the last one."""

    why: str = ""
    rows: int = 0
    began: float = 0.0  # by `monotonic`; 0: nothing is being loaded

    @property
    def seconds(self) -> float:
        return monotonic() - self.began if self.began else 0.0

    @property
    def reason(self) -> str:
        """Why no request can be answered, while loading; else empty."""
        if not self.began:
            return ""
        why = f" anew, as {self.why}" if self.why else ""
        return f"loading the index{why}: {self.rows} rows so far, for {self.seconds:.0f} s"


class Watchers(Protocol):
    """See `kine.store.watch_hub`."""

    def overtaken(self, revision: int) -> None: ...

    def rewound(self, revision: int) -> None: ...


class Streams(Protocol):
    """See `kine.store.range_streams`."""

    def lose(self, revision: int) -> None: ...


class Loader:
    """Replaces the store's index by one loaded from the database, and notifies watchers and open streams."""

    def __init__(self, driver: Log, applier: RowApplier, watchers: Watchers, streams: Streams) -> None:
        self._driver = driver
        self._applier = applier
        self._watchers = watchers
        self._streams = streams
        self.progress = LoadProgress()

    async def reload(self, why: str = "") -> None:
        """Reads the whole index: at start, and when others compacted past this instance's revision."""
        found = await whole_index(self._driver, self._applier.entry, self.progress, why)
        index = self._applier.index
        before = index.revision
        index.adopt(found)
        self._streams.lose(index.compact_revision)
        self._watchers.overtaken(before)

    async def rewind(self) -> None:
        """Reloads after the database lost commits that this instance has applied; cancels every watch."""
        applier = self._applier
        entry_of = partial(applier.entry, anew=True)
        found = await whole_index(self._driver, entry_of, self.progress, "the database has gone back")
        index = applier.index
        before = index.revision
        index.revision = index.compact_revision = 0
        index.adopt(found)
        applier.values.clear()
        applier.lists.clear()
        self._streams.lose(before + 1)
        self._watchers.rewound(before)


async def whole_index(driver: Log, entry_of: EntryOf, progress: LoadProgress, why: str = "") -> Index:
    """Reads and returns the whole index, compacted as the database is. Raises DriverError."""
    progress.why, progress.rows, progress.began = why, 0, monotonic()
    try:
        while True:
            try:
                index = await _read(driver, entry_of, progress)
                break
            except OvertakenError as error:
                log.warning("loading the index once more: %s", error)
                progress.why, progress.rows = str(error), 0
        # Rows superseded up to here are not served any more, whether or not the table still has them.
        compacted = await driver.recorded_compaction()
        if isinstance(driver, LoadedInParts):
            index.leave_out(await driver.gone(index.names_up_to(compacted)))
        index.loaded()
        await _read_compact_version(driver, index)
        # A log that drops old entries on its own shows that in its tail.
        tail = await driver.tail(index.revision, 1)
        compacted = max(compacted, tail.compact_revision)
        if compacted:
            index.compact(min(compacted, index.revision))
        return index
    finally:
        progress.began = 0.0


async def _read(driver: Log, entry_of: EntryOf, progress: LoadProgress) -> Index:
    index = Index()
    told = monotonic()
    async for rows in driver.load():
        index.load(_entries(rows, index, entry_of))
        index.revision = rows[-1].id
        progress.rows += len(rows)
        if monotonic() - told > _PROGRESS_EVERY:
            log.info("%s", progress.reason)
            told = monotonic()
        await asyncio.sleep(0)
    return index


def _entries(rows: Iterable[Row], index: Index, entry_of: EntryOf) -> Iterable[Entry]:
    """Yields entries one by one, as each builds on those before."""
    for row in rows:
        entry = entry_of(row, index)
        if entry is not None:
            yield entry


async def _read_compact_version(driver: Log, index: Index) -> None:
    """Reads the versions of `compact_rev_key`: they are in its values, which loading does not read."""
    chain = []
    entry = index.newest.get(COMPACT_REV_KEY)
    while entry is not None:
        chain.append(entry)
        entry = entry.below
    values = await driver.values([entry.mod for entry in chain if entry.version])
    for entry in chain:
        if entry.mod in values:
            entry.version = split_version(values[entry.mod])[0]


async def bootstrap(driver: Log, applier: RowApplier, catch_up: Callable[[int], Awaitable[None]]) -> None:
    """Creates the rows that are missing at a database's first start. Raises DriverError.

    If no revision is left for them, the existing data is served; `Store.exhausted` says why writes are not.
    """
    index = applier.index
    with contextlib.suppress(OutOfRevisionsError):
        await _make_own_rows(driver, applier, index, catch_up)


async def _make_own_rows(
    driver: Log, applier: RowApplier, index: Index, catch_up: Callable[[int], Awaitable[None]]
) -> None:
    while not (applier.compact_row and index.live(HEALTH_KEY)):
        rows = []
        if not applier.compact_row:
            rows.append(NewRow(COMPACT_REV_KEY, True, False, 0, 0, 0, b"", 0))
        if not index.live(HEALTH_KEY):
            below = index.newest.get(HEALTH_KEY)
            prev = below.mod if below is not None else 0
            rows.append(NewRow(HEALTH_KEY, True, False, 0, prev, 0, HEALTH_VALUE, 0))
        # A conflict means that another instance is starting at this moment: its rows come with the tail.
        for outcome in await driver.append([Write((row,), False) for row in rows], index.revision):
            if isinstance(outcome, DriverError):
                raise outcome
        await catch_up(await driver.newest())
