"""The whole index, read from the database, and the rows that every kine finds there or makes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from kine.drivers.base import Log, NewRow, Row, Write
from kine.store.index import Entry, Index
from kine.store.keys import COMPACT_REV_KEY, HEALTH_KEY, HEALTH_VALUE, split_version

if TYPE_CHECKING:
    from kine.store.applying import Applier

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 100_000  # rows, in the log while loading

EntryOf = Callable[[Row, Index], Entry | None]  # see `kine.store.applying.Applier.entry`


async def whole_index(driver: Log, entry_of: EntryOf) -> Index:
    """Raises DriverError."""
    while True:
        compacted = await driver.compact_revision()
        index = await _read(driver, entry_of)
        # Blocks are of different moments: a key may be read whose deletion is compacted before its turn.
        if await driver.compact_revision() == compacted:
            break
    # What the log drops of its past by itself shows in its tail.
    tail = await driver.tail(index.revision, 1)
    compacted = max(compacted, tail.compact_revision)
    if compacted:
        index.compact(min(compacted, index.revision))
    return index


async def _read(driver: Log, entry_of: EntryOf) -> Index:
    index = Index()
    count = 0
    async for rows in driver.load():
        index.load(_entries(rows, index, entry_of))
        index.revision = rows[-1].id
        count += len(rows)
        if count // _PROGRESS_EVERY > (count - len(rows)) // _PROGRESS_EVERY:
            log.info("loading the index: %d rows so far", count)
        await asyncio.sleep(0)
    index.loaded()
    await _read_compact_version(driver, index)
    return index


def _entries(rows: Iterable[Row], index: Index, entry_of: EntryOf) -> Iterable[Entry]:
    """One by one, as each is made on top of those before."""
    for row in rows:
        entry = entry_of(row, index)
        if entry is not None:
            yield entry


async def _read_compact_version(driver: Log, index: Index) -> None:
    """That key keeps its version in its value, which loading does not read."""
    chain = []
    entry = index.newest.get(COMPACT_REV_KEY)
    while entry is not None:
        chain.append(entry)
        entry = entry.below
    values = await driver.values([entry.mod for entry in chain if entry.version])
    for entry in chain:
        if entry.mod in values:
            entry.version = split_version(values[entry.mod])[0]


async def bootstrap(driver: Log, applier: Applier, catch_up: Callable[[int], Awaitable[None]]) -> None:
    """Makes the rows that are missing at a database's first start. Raises DriverError."""
    index = applier.index
    while not (applier.compact_row and index.live(HEALTH_KEY)):
        rows = []
        if not applier.compact_row:
            rows.append(NewRow(COMPACT_REV_KEY, True, False, 0, 0, 0, b"", 0))
        if not index.live(HEALTH_KEY):
            below = index.newest.get(HEALTH_KEY)
            prev = below.mod if below is not None else 0
            rows.append(NewRow(HEALTH_KEY, True, False, 0, prev, 0, HEALTH_VALUE, 0))
        # A conflict means that another instance starts at this moment: its rows come with the tail.
        await driver.append([Write((row,), False) for row in rows], index.revision)
        await catch_up(await driver.newest())
