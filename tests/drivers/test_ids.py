"""Row ids from the database: counters left behind by a restore, and counters that leap ahead."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

import pytest

from kine import drivers
from kine.commands.check import _findings
from kine.drivers.base import Log, Options
from kine.drivers.sql import id_gaps
from tests.client import Client
from tests.drivers.conftest import _place as new_place
from tests.drivers.row_shorthand import all_rows, created, deleted, updated, write
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import GoWriter, Place

COMPACT = created(b"compact_rev_key", b"")


def set_back(writer: GoWriter, kind: str, last: int) -> None:
    """Makes the next id the one after `last`, whatever rows exist."""
    if kind == "postgres":
        writer.run("SELECT setval('kine_id_seq', ?)", (last,))
    elif kind == "sqlite":
        writer.run("UPDATE sqlite_sequence SET seq = ? WHERE name = 'kine'", (last,))
    else:
        writer.run(f"ALTER TABLE kine AUTO_INCREMENT = {last + 1}")


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


async def found(place: Place) -> list[str]:
    """The findings of `kine check`."""
    async with drivers.inspect(place.endpoint(), Options()) as view:
        return [finding.id async for findings in _findings(view) for finding in findings]


async def filled(log: Log) -> int:
    """Fills a log so that ids below its newest, which is returned, are vacant."""
    await log.append([write(COMPACT), write(created(b"/a"))], 0)
    for last in range(2, 8):
        await log.append([write(updated(b"/a", last, 2))], last)
    await log.append([write(deleted(b"/a", 8)), write(created(b"/b"))], 8)
    await log.compact(10, [])
    return 10


@pytest.mark.parametrize("last", [1, 4, 9])
async def test_a_counter_left_behind_is_advanced_at_start(
    place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter], last: int
) -> None:
    newest = await filled(first := await open_log(place))
    await first.close()
    set_back(go(place), place.kind, last)
    if place.kind != "mysql":  # InnoDB refuses a counter below the existing rows
        assert await found(place) == ["allocator-behind"]

    log = await open_log(place)

    assert await found(place) == []
    [ids] = await log.append([write(created(b"/c"))], newest)
    assert list(ids or ()) == [newest + 1]


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("last", [1, 4, 9])
async def test_a_counter_set_back_under_a_running_server_gives_no_id_twice(
    place: Place, log: Log, go: Callable[[Place], GoWriter], last: int, guarded: bool
) -> None:
    newest = await filled(log)
    set_back(go(place), place.kind, last)

    [ids] = await log.append([write(created(b"/c"), guarded=guarded)], newest)

    assert ids is not None
    assert ids[0] > newest
    rows = await all_rows(log, newest)
    assert [(row.id, row.name) for row in rows] == [(ids[0], b"/c")]


async def test_a_leap_is_one_gap_for_whoever_reads_it(
    shared_place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter]
) -> None:
    """A leap of 300 million ids: constant memory, few rows, and nothing left to do at the next start."""
    log, other = await open_log(shared_place), await open_log(shared_place)
    await log.append([write(created(b"/a"))], 0)
    leap = 300_000_000
    set_back(go(shared_place), shared_place.kind, leap)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [ids] = await log.append([write(created(b"/b"))], 1)

    assert list(ids or ()) == [leap + 1]
    for each in (log, other, await open_log(shared_place)):
        assert [row.id for row in await all_rows(each)] == [1, leap + 1]
        assert [row.name for block in [b async for b in each.load()] for row in block][-1] == b"/b"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"
    [(count,)] = go(shared_place).run("SELECT count(*) FROM kine")
    assert count == 2 + 2 * id_gaps.ENDS + 1
    assert await found(shared_place) == []


async def test_a_leap_before_a_guarded_write(
    shared_place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter]
) -> None:
    log = await open_log(shared_place)
    await log.append([write(created(b"/a"))], 0)
    set_back(go(shared_place), shared_place.kind, 300_000_000)

    [ids] = await log.append([write(created(b"/b"), guarded=True)], 1)
    assert list(ids or ()) == [300_000_001]
    assert [row.name for row in await all_rows(log)] == [b"/a", b"/b"]


async def test_who_holds_an_id_before_a_leap_is_waited_for(
    shared_place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter]
) -> None:
    """The id was allocated before the leap, and is committed after it."""
    log = await open_log(shared_place)
    await log.append([write(created(b"/a"))], 0)
    holder, other = go(shared_place), go(shared_place)
    holder.begin()
    holder.create("/held")
    if shared_place.kind == "postgres":
        other.run("SELECT setval('kine_id_seq', 5000000)")
    else:  # the MySQL table cannot be altered while it is written to
        other.run(
            "INSERT INTO kine (id, name, created, deleted, prev_revision) VALUES (5000000, 'x', 1, 0, 0)"
        )
    other.create("/later")
    reading = asyncio.create_task(all_rows(log))
    await asyncio.sleep(0.5)
    assert not reading.done()
    holder.commit()

    assert [row.name for row in await reading if row.name != b"x"] == [b"/a", b"/held", b"/later"]


async def test_a_row_that_comes_within_a_leap_is_moved(
    shared_place: Place, open_log: OpenLog, go: Callable[[Place], GoWriter]
) -> None:
    log = await open_log(shared_place)
    await log.append([write(created(b"/a"))], 0)
    writer = go(shared_place)
    set_back(writer, shared_place.kind, 5_000_000)
    await log.append([write(created(b"/b"))], 1)
    assert [row.name for row in await all_rows(log)] == [b"/a", b"/b"]
    writer.run("INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value)"
               " VALUES (2500000, '/late', 1, 0, 0, 0, 0, NULL)")  # fmt: skip
    head = await log.newest()
    async with asyncio.timeout(60):
        while not (rows := await all_rows(log, head)):
            await log.changed(head)

    assert [row.name for row in rows] == [b"/late"]
    assert rows[0].id > head


def test_a_server_goes_over_a_leap_whatever_its_length(
    shared_place: Place, go: Callable[[Place], GoWriter], tmp_path: Path
) -> None:
    """Writes, watches, a restart, a compaction of it all, and SIGTERM: none takes a step for each id."""
    first = start_kine(shared_place.endpoint(), "http2", tmp_path / "first")
    with Client(first.address) as client, client.watch() as watch:
        watch.create(b"/", b"0")
        before = client.put(b"/k", b"1").header.revision
        leap = 300_000_000
        set_back(go(shared_place), shared_place.kind, leap)
        after = [client.put(b"/k", b"%d" % number).header.revision for number in range(3)]
        assert after == [leap + 1, leap + 2, leap + 3]
        assert [event.kv.mod_revision for event in watch.events(4)] == [before, *after]
        second = start_kine(shared_place.endpoint(), "http2", tmp_path / "second")
        with Client(second.address) as other:
            assert other.get(b"/k") == client.get(b"/k")
            other.compact(after[-1], physical=True)
            assert client.put(b"/k", b"4", prev_kv=True).prev_kv.value == b"2"
    assert second.stop() == 0
    assert first.stop() == 0
    [(count,)] = go(shared_place).run("SELECT count(*) FROM kine")
    assert count < 10, "what the leap left is compacted, too"
