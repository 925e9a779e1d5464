"""Conformance of every driver to `kine.drivers.base.Log`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kine.drivers.base import BehindError, InvalidKeyError, Log, NewRow
from tests.drivers.conftest import OpenLog
from tests.drivers.driver_databases import GoWriter, Place
from tests.drivers.row_shorthand import all_rows, created, deleted, updated, write

Go = Callable[[Place], GoWriter]


@pytest.fixture
def place(any_place: Place) -> Place:
    return any_place


async def test_a_new_log_is_empty(log: Log) -> None:
    assert await log.newest() == 0
    assert await log.compact_revision() == 0
    assert (await log.tail(0, 10)).rows == []
    assert [block async for block in log.load()] == []


async def test_append_gives_ids_in_order(log: Log) -> None:
    first = await log.append([write(created(b"/a")), write(created(b"/b"))], 0)
    second = await log.append([write(created(b"/c"))], 2)
    assert [list(ids or ()) for ids in [*first, *second]] == [[1], [2], [3]]
    assert await log.newest() == 3


async def test_tail_returns_rows_as_written(log: Log) -> None:
    await log.append([write(created(b"/a", b"\0\xff'\\\"%s?", ttl=60, lease=7))], 0)
    await log.append([write(updated(b"/a", 1, 1, b""))], 1)
    await log.append([write(deleted(b"/a", 2))], 2)
    made, changed, gone = await all_rows(log)
    assert (made.name, made.created, made.deleted, made.prev_revision) == (b"/a", True, False, 0)
    assert (made.value, made.ttl, made.lease) == (b"\0\xff'\\\"%s?", 60, 7)
    assert (changed.created, changed.deleted, changed.create_revision, changed.prev_revision) == (
        False, False, 1, 1,
    )  # fmt: skip
    assert changed.value == b""
    assert (gone.deleted, gone.prev_revision, gone.lease) == (True, 2, 0)


async def test_tail_goes_on_from_where_it_ended(log: Log) -> None:
    await log.append([write(created(b"/%d" % number)) for number in range(5)], 0)
    tail = await log.tail(0, 2)
    assert ([row.id for row in tail.rows], tail.head) == ([1, 2], 2)
    assert [row.id for row in (await log.tail(2, 10)).rows] == [3, 4, 5]


async def test_conflict_leaves_out_that_write_only(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    outcome = await log.append([write(created(b"/b")), write(created(b"/a")), write(created(b"/c"))], 0)
    assert outcome[1] is None
    assert {row.name for row in await all_rows(log)} == {b"/a", b"/b", b"/c"}


async def test_conflicts_leave_no_gap(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    await log.append([write(created(b"/a")), write(created(b"/b"))], 0)
    [ids] = await log.append([write(created(b"/c"))], 0)
    assert list(ids or ()) == [3]


async def test_two_changes_of_one_row_conflict(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    await log.append([write(updated(b"/a", 1, 1))], 1)
    assert await log.append([write(deleted(b"/a", 1))], 1) == [None]
    assert await log.append([write(updated(b"/a", 1, 1))], 1) == [None]


async def test_deletes_only(log: Log) -> None:
    await log.append([write(created(b"/a")), write(created(b"/b"))], 0)
    outcome = await log.append([write(deleted(b"/a", 1)), write(deleted(b"/b", 2))], 2)
    assert [list(ids or ()) for ids in outcome] == [[3], [4]]


async def test_rows_of_one_write_come_together_or_not_at_all(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    both = write(created(b"/b"), created(b"/a"))
    assert (await log.append([both, write(created(b"/c"))], 0))[0] is None
    assert {row.name for row in await all_rows(log)} == {b"/a", b"/c"}
    [ids] = await log.append([write(created(b"/d"), created(b"/e"))], await log.newest())
    assert ids is not None
    assert len(ids) == 2


async def test_guarded_write_is_refused_when_others_have_written(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    with pytest.raises(BehindError):
        await log.append([write(created(b"/b")), write(created(b"/c"), guarded=True)], 0)
    assert [row.name for row in await all_rows(log)] == [b"/a"]


async def test_guarded_write_is_carried_out_when_nobody_has(log: Log) -> None:
    await log.append([write(created(b"/a"))], 0)
    outcome = await log.append([write(created(b"/b")), write(created(b"/c"), guarded=True)], 1)
    assert [list(ids or ()) for ids in outcome] == [[2], [3]]


async def test_guarded_writes_go_on_after_a_refused_one(log: Log) -> None:
    """The ids that a refused write has consumed must not delay the next one."""
    await log.append([write(created(b"/a"))], 0)
    for _ in range(3):
        with pytest.raises(BehindError):
            await log.append([write(created(b"/b"), guarded=True)], 0)
    outcome = await log.append([write(created(b"/b"), guarded=True)], 1)
    assert outcome != [None]


async def test_a_row_that_was_compacted_cannot_be_replaced(log: Log) -> None:
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(deleted(b"/a", 2))], 2)
    await log.append([write(created(b"/b"))], 3)
    await log.compact(4, [])
    assert await log.append([write(updated(b"/a", 2, 2))], 2) == [None]


@pytest.mark.parametrize("beside", [(), (created(b"/b"), created(b"/c"))], ids=["alone", "beside another"])
async def test_a_key_whose_creation_was_compacted_cannot_be_created(
    log: Log, beside: tuple[NewRow, ...]
) -> None:
    """The key's first row, which the unique index would find, is gone; the row that replaced it exists."""
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(updated(b"/a", 2, 2))], 2)
    await log.compact(3, [])
    writes = [write(created(b"/a")), *([write(*beside)] if beside else [])]
    assert (await log.append(writes, 1))[0] is None
    assert [row.id for row in await all_rows(log) if row.name == b"/a"] == [3]


@pytest.mark.parametrize("beside", [(), (created(b"/b"), created(b"/c"))], ids=["alone", "beside another"])
async def test_of_two_creations_one_on_a_tombstone_and_one_on_nothing_one_succeeds(
    log: Log, beside: tuple[NewRow, ...]
) -> None:
    """One instance still knows the tombstone, the other has learnt of its compaction."""
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(deleted(b"/a", 2))], 2)
    await log.append([write(created(b"/other"))], 3)
    await log.compact(4, [])
    await log.append([write(created(b"/a"))], 4)
    writes = [write(created(b"/a", prev=3)), *([write(*beside)] if beside else [])]
    assert (await log.append(writes, 4))[0] is None
    assert [row.id for row in await all_rows(log) if row.name == b"/a"] == [5]


async def test_a_tombstone_that_is_about_to_be_compacted_holds_up_no_creation(log: Log) -> None:
    """The store removes it first, the database later."""
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(deleted(b"/a", 2))], 2)
    await log.compact(3, [])
    await log.append([write(created(b"/other"))], 3)
    [ids] = await log.append([write(created(b"/a"))], 3)
    assert ids is not None


async def test_a_revision_that_is_another_keys_cannot_be_replaced(log: Log) -> None:
    """After a failover that lost commits, a revision may be allocated again."""
    await log.append([write(created(b"/a")), write(created(b"/b"))], 0)
    await log.append([write(created(b"/c"))], 2)
    assert await log.append([write(updated(b"/lost", 2, 2))], 2) == [None]
    outcome = await log.append([write(updated(b"/lost", 2, 2)), write(created(b"/d"), created(b"/e"))], 2)
    assert outcome[0] is None
    assert b"/lost" not in {row.name for row in await all_rows(log)}


async def test_the_newest_row_of_a_key_is_known_after_a_compaction(log: Log) -> None:
    """A lagging instance creates, updates or deletes a key whose state has changed."""
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(updated(b"/a", 2, 2))], 2)
    await log.append([write(updated(b"/a", 3, 2))], 3)
    await log.compact(3, [])
    assert await log.append([write(created(b"/a"))], 3) == [None]
    assert await log.append([write(updated(b"/a", 3, 2))], 3) == [None]
    assert await log.append([write(deleted(b"/a", 3))], 3) == [None]
    await log.compact(4, [])
    assert await log.append([write(created(b"/a"))], 3) == [None]
    [ids] = await log.append([write(deleted(b"/a", 4))], 4)
    assert list(ids or ()) == [5]


async def test_a_tombstone_at_the_compact_revision_goes_with_the_next_compaction(log: Log) -> None:
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(deleted(b"/a", 2))], 2)
    await log.append([write(created(b"/b"))], 3)
    await log.compact(3, [])
    await log.compact(4, [])
    assert [row.name for row in await all_rows(log)] in ([b"compact_rev_key", b"/b"], [b"/b"])


async def test_values_by_id(log: Log) -> None:
    await log.append([write(created(b"/a", b"A")), write(created(b"/b", b""))], 0)
    await log.append([write(deleted(b"/a", 1))], 2)
    assert await log.values([1, 2, 3, 99]) == {1: b"A", 2: b"", 3: b""}
    assert await log.values([]) == {}


async def test_load_gives_rows_without_values(log: Log) -> None:
    await log.append([write(created(b"/%d" % number, lease=number)) for number in range(20)], 0)
    rows = [row async for block in log.load(5) for row in block]
    assert [row.id for row in rows] == list(range(6, 21))
    assert {row.value for row in rows} == {None}
    assert rows[0].lease == 5


async def test_compaction_removes_what_is_superseded(log: Log) -> None:
    await log.append(
        [write(created(b"compact_rev_key", b"")), write(created(b"/a")), write(created(b"/b"))], 0
    )
    await log.append([write(updated(b"/a", 2, 2)), write(deleted(b"/b", 3))], 3)
    await log.append([write(created(b"/c"))], 5)
    assert await log.compact(6, [(4, 2)]) == 6
    rows = await all_rows(log)
    assert [(row.id, row.version) for row in rows if row.name != b"compact_rev_key"] == [(4, 2), (6, 0)]
    assert await log.compact_revision() == 6


async def test_compaction_does_not_go_back(log: Log) -> None:
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.compact(2, [])
    assert await log.compact(1, []) == 2
    assert await log.compact_revision() == 2


async def test_compaction_does_not_trouble_a_reader_that_is_behind(log: Log) -> None:
    await log.append([write(created(b"compact_rev_key", b"")), write(created(b"/a"))], 0)
    await log.append([write(updated(b"/a", 2, 2))], 2)
    await log.append([write(updated(b"/a", 3, 2))], 3)
    await log.append([write(created(b"/b"))], 4)
    await log.compact(5, [])
    tail = await log.tail(1, 10)
    assert [row.id for row in tail.rows] == [4, 5]
    assert (tail.head, tail.compact_revision) == (5, 5)


async def test_leases(log: Log) -> None:
    assert await log.grant(5, 60)
    assert not await log.grant(5, 30)
    await log.renew([5, 6])
    lease = await log.lease(5)
    assert lease is not None
    assert (lease.id, lease.ttl, lease.renewals) == (5, 60, 1)
    assert await log.grant((1 << 63) - 1, 9_000_000_000)
    assert len(await log.leases()) == 2
    await log.forget(5)
    await log.forget(5)
    assert await log.lease(5) is None


async def test_a_number_of_renewals_may_be_named_and_grows_anyhow(log: Log) -> None:
    numbers = []
    assert await log.grant(5, 60, 1 << 61)
    for named in (0, 1 << 62, 7, 1 << 62, (1 << 62) + 1):
        await log.renew([5], named)
        lease = await log.lease(5)
        assert lease is not None
        numbers.append(lease.renewals)
    assert numbers == [(1 << 61) + 1, *(range(1 << 62, (1 << 62) + 4))]


async def test_a_lease_renewed_in_the_moment_of_its_end_lives_or_is_not_renewed(log: Log) -> None:
    await log.grant(5, 60)
    await log.renew([5])
    assert not await log.expire(5, 0), "another instance has renewed it"
    assert await log.expire(5, 1)
    await log.renew([5])
    lease = await log.lease(5)
    assert lease is not None
    assert lease.renewals < 0
    assert await log.expire(5, 1)
    assert not await log.grant(5, 60), "its keys may be there yet"
    await log.forget(5)
    assert await log.expire(5, 1)
    assert await log.grant(5, 60)


async def test_a_ttl_beyond_the_column_is_capped(log: Log, place: Place) -> None:
    await log.append([write(created(b"/a", ttl=9_000_000_000, lease=7))], 0)
    [row] = await all_rows(log)
    assert row.ttl >= (1 << 31) - 1


async def test_another_instance_sees_a_commit_at_once(log: Log, place: Place, open_log: OpenLog) -> None:
    other = await open_log(place)
    await log.append([write(created(b"/a"))], 0)
    assert await other.newest() == 1
    assert [row.name for row in (await other.tail(0, 10)).rows] == [b"/a"]


async def test_another_instance_is_told_of_a_commit(log: Log, place: Place, open_log: OpenLog) -> None:
    other = await open_log(place)
    await log.append([write(created(b"/a"))], 0)
    await asyncio.wait_for(other.changed(0), 60)  # the commit is already visible
    for _ in range(10):  # the first one's notification may arrive after it was read
        waiting = asyncio.ensure_future(other.changed(1))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        if not done:
            break
    assert not done, "nothing has come"
    await log.append([write(created(b"/b"))], 1)
    await asyncio.wait_for(waiting, 60)
    assert await other.newest() == 2


async def test_old_values_are_there_for_go_kine(log: Log, place: Place, go: Go) -> None:
    await log.append([write(created(b"/a", b"one")), write(created(b"/b", b"two"))], 0)
    await log.append([write(updated(b"/a", 1, 1, b"three"))], 2)
    await log.append([write(deleted(b"/a", 3)), write(created(b"/c", b"four"))], 3)
    found = go(place).run("SELECT id, old_value FROM kine ORDER BY id")
    assert found == [(1, None), (2, None), (3, b"one"), (4, b"three"), (5, None)]


async def test_rows_of_go_kine_are_read(log: Log, place: Place, go: Go) -> None:
    writer = go(place)
    first = writer.create("/a", b"A", ttl=30)
    second = writer.update("/a", first, first, b"B")
    third = writer.delete("/a", second, first, b"B")
    made, changed, gone = await all_rows(log)
    assert (made.id, made.ttl, made.lease, made.version) == (first, 30, 0, 0)
    assert (changed.create_revision, changed.prev_revision, changed.value) == (first, first, b"B")
    assert (gone.id, gone.deleted, gone.prev_revision) == (third, True, second)


async def test_a_change_by_go_kine_conflicts(log: Log, place: Place, go: Go) -> None:
    await log.append([write(created(b"/a"))], 0)
    go(place).update("/a", 1, 1)
    outcome = await log.append([write(updated(b"/a", 1, 1)), write(created(b"/b"))], 1)
    assert outcome[0] is None
    assert outcome[1] is not None


async def test_a_guarded_write_sees_go_kines_row(log: Log, place: Place, go: Go) -> None:
    go(place).create("/a")
    with pytest.raises(BehindError):
        await log.append([write(created(b"/b"), guarded=True)], 0)


async def test_a_large_group(log: Log) -> None:
    rows = [created(b"/%04d" % number, bytes([number % 256]) * 20_000) for number in range(512)]
    outcome = await log.append([write(row) for row in rows], 0)
    assert [list(ids or ()) for ids in outcome] == [[number] for number in range(1, 513)]
    assert (await log.values([300]))[300] == rows[299].value


async def test_a_large_value(log: Log) -> None:
    value = b"\0\\'" * (1 << 20)
    await log.append([write(created(b"/a", value))], 0)
    assert (await log.values([1]))[1] == value


async def test_size_and_defragment(log: Log) -> None:
    await log.append([write(created(b"/%d" % number, b"x" * 1000)) for number in range(100)], 0)
    await log.defragment()
    size = await log.size()
    assert size.allocated > 0
    assert 0 < size.in_use <= size.allocated


@pytest.mark.parametrize("name", [b"/Upper", b"/upper", b"/space ", b"/quote'\\", b"/percent%s?", b"~"])
async def test_unusual_keys(log: Log, name: bytes) -> None:
    await log.append([write(created(name))], 0)
    assert [row.name for row in await all_rows(log)] == [name]


async def test_keys_are_told_apart_by_case(log: Log) -> None:
    outcome = await log.append([write(created(b"/a")), write(created(b"/A"))], 0)
    assert None not in outcome


async def test_a_key_the_database_cannot_hold_is_refused(log: Log, place: Place) -> None:
    refused = {
        "sqlite": [],
        "postgres": [b"/nul\0", b"/latin\xe9"],
        "mysql": [b"/latin\xe9", "/é".encode(), b"/" + b"x" * 630],
        "nats": [b"/" + b"x" * 3_000],
        "memory": [],
    }
    for name in refused[place.kind]:
        with pytest.raises(InvalidKeyError):
            await log.append([write(created(name)), write(created(b"/fine"))], 0)
    assert await all_rows(log) == []


async def test_instances_writing_at_once_agree(log: Log, place: Place, open_log: OpenLog) -> None:
    others = [log, await open_log(place), await open_log(place)]

    async def writes(which: int, instance: Log) -> list[int]:
        ids = []
        for number in range(40):
            group = [write(created(b"/%d/%d/%d" % (which, number, part))) for part in range(5)]
            outcome = await instance.append(group, await instance.newest())
            ids += [row_id for its in outcome for row_id in its or ()]
        return ids

    ids = await asyncio.gather(*(writes(which, instance) for which, instance in enumerate(others)))
    assert sorted(row_id for its in ids for row_id in its) == list(range(1, 601))
    for instance in others:
        assert [row.id for row in await all_rows(instance)] == list(range(1, 601))
