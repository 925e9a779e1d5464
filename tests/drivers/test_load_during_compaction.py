"""Loading the index while other instances compact: each key is loaded once, in its right state."""

from __future__ import annotations

import itertools
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from kine.store.load_index import LoadProgress
from kine.store.store import Store, StoreSettings
from tests.drivers.driver_databases import lock_timeout
from tests.drivers.row_shorthand import created, deleted, updated, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kine.drivers.base import Log, Row
    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import Place

KEYS = 30


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (("sql.log", "_LOAD_BLOCK"), ("sqlite.log", "_LOAD_BLOCK"), ("nats.stream", "_PULL")):
        monkeypatch.setattr(import_module(f"kine.drivers.{module}"), name, 5)


async def filled(log: Log) -> int:
    """Writes many keys; in the end each third is deleted, each other third updated. Returns the revision."""
    head = await log.newest()
    ids = []
    for number in range(KEYS):
        [made] = await log.append([write(created(b"/%02d" % number))], head)
        assert made
        head = made[0]
        ids.append(head)
    for number in range(KEYS):
        if number % 3 < 2:
            row = deleted if number % 3 else lambda name, prev: updated(name, prev, prev)
            [done] = await log.append([write(row(b"/%02d" % number, ids[number]))], head)
            assert done
            head = done[0]
    return head


async def test_an_index_is_loaded_while_others_compact(
    place: Place, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await open_log(place)
    store = Store(first, StoreSettings())
    await store.open()
    await store.close()
    head = await filled(first)
    log = await open_log(place)
    load, steps, loads = log.load, itertools.count(KEYS), []

    async def overtaken(after: int = 0) -> AsyncIterator[list[Row]]:
        """Lets another instance compact further after each block."""
        loads.append(after)
        async for rows in load(after):
            yield rows
            await first.compact(min(next(steps) * 2, head), [])

    monkeypatch.setattr(log, "load", overtaken)
    store = Store(log, StoreSettings())
    await store.open()
    try:
        assert loads == [0], "it was loaded once"
        assert sorted(
            key for key in store.index.newest if store.index.live(key) and key != b"/registry/health"
        ) == [b"/%02d" % number for number in range(KEYS) if number % 3 != 1]
        assert store.index.revision == head
        assert store.index.compact_revision == await first.compact_revision()
    finally:
        await store.close()


async def test_a_gap_in_a_load_that_compaction_comes_into_begins_it_again(
    shared_place: Place, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await open_log(shared_place)
    store = Store(first, StoreSettings())
    await store.open()
    await store.close()
    head = await filled(first)
    go = shared_place.go()
    go.run("DELETE FROM kine WHERE id = ?", (head - 20,))
    go.close()
    log = await open_log(shared_place, lock_timeout(shared_place, 1))
    load, loads = log.load, []

    async def overtaken(after: int = 0) -> AsyncIterator[list[Row]]:
        loads.append(after)
        async for rows in load(after):
            yield rows
            await first.compact(head - 30, [])

    monkeypatch.setattr(log, "load", overtaken)
    store = Store(log, StoreSettings())
    await store.open()
    try:
        assert len(loads) == 2
        assert store.index.revision == head
    finally:
        await store.close()


def test_what_is_being_loaded_and_why() -> None:
    progress = LoadProgress()
    assert progress.reason == ""
    progress.why, progress.rows, progress.began = "others have compacted to revision 9", 1234, 1.0
    assert "anew, as others have compacted to revision 9: 1234 rows so far" in progress.reason
