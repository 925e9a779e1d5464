"""Compaction of a file that other processes write to meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from kine.drivers.base import Options
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.log import SqliteLog
from tests.drivers.row_shorthand import all_rows, created, updated, write

KEYS = 4_000


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A log in which every key was updated once, in another order than it was created in."""
    opened = SqliteLog(parse(f"sqlite://{tmp_path / 'state.db'}"), Options())
    await opened.open()
    await opened.append([write(created(b"compact_rev_key", b""))], 0)
    rows = [created(b"/%06d" % n, b"x" * 1000) for n in range(KEYS)]
    rows += [updated(b"/%06d" % n, n + 2, n + 2) for n in Random(1).sample(range(KEYS), KEYS)]
    for done in range(0, len(rows), 500):
        await opened.append([write(row) for row in rows[done : done + 500]], 1 + done)
    yield opened
    await opened.close()


async def test_writes_get_their_turn_during_one_call(log: SqliteLog) -> None:
    """However many revisions a call covers, it does not hold the write lock for all of them at once."""
    compacting = asyncio.create_task(log.compact(2 * KEYS, []))
    turns = 0
    while not compacting.done():
        await log.append([write(created(b"/new-%d" % turns))], 2 * KEYS + 1 + turns)
        turns += 1

    assert await compacting == 2 * KEYS
    assert turns >= 3
    assert await log.compact_revision() == 2 * KEYS
    left = [row for row in await all_rows(log) if not row.name.startswith((b"/new", b"compact"))]
    assert len(left) == KEYS + 1  # the last update's key has two, until the next compaction
