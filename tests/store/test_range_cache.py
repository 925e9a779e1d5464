"""The cache of long ranges, updated in part, against a history that answers the slow and obvious way."""

from __future__ import annotations

import asyncio
import gc
import warnings
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from kine.etcd import response_encoding
from kine.fair_queue import FairTurns
from kine.proto import rpc_pb2 as rpc
from kine.store import range_cache, range_select
from kine.store.index import Entry, Index, in_range
from kine.store.operations import Range, RangeResult
from kine.store.range_cache import RangeCache
from kine.store.range_select import GoneError, RangeReader, UnreadValues
from kine.store.value_cache import ValueCache, frame

KEYS = [b"k/%02d" % number for number in range(24)]
key = st.sampled_from(KEYS)
put = st.tuples(st.just("put"), key, st.integers(0, 40))
delete = st.tuples(st.just("delete"), key)
compact = st.tuples(st.just("compact"), st.integers(0, 5))
look = st.tuples(st.just("look"), st.sampled_from([0, 0, 0, 1, 3]))  # so many revisions back
page = st.tuples(st.just("page"), st.sampled_from([1, 2, 5]))  # the next one of a list
steps = st.lists(st.one_of(put, delete, look, look, page, compact), min_size=10, max_size=60)
RANGES = [(b"a", b"", 0), (b"k/", b"l", 0), (KEYS[5], KEYS[18], 0), (b"k/", b"l", 9), (KEYS[9], b"", 9)]


class World:
    """An index with its values and reads, and every value that ever existed."""

    def __init__(self, budget: int) -> None:
        self.index = Index()
        self.values = ValueCache(budget)
        lists = RangeCache(self.index, self.values)
        self.reads = RangeReader(self.index, self.values, lists, self.rows, self.learn, FairTurns())
        self.history: dict[int, tuple[Entry, bytes]] = {}
        self.pages: dict[int, tuple[bytes, int]] = {}  # by limit: where its list goes on, and its revision

    async def rows(self, revisions):
        return {revision: self.history[revision][1] for revision in revisions}

    async def learn(self):
        raise AssertionError("no row is gone here")

    def write(self, name: bytes, value: bytes | None) -> None:
        index = self.index
        below = index.newest.get(name)
        revision = index.revision + 1
        if value is None:
            entry = Entry(name, revision, 0, 0, 0, below)
        elif below is not None and below.version:
            entry = Entry(name, revision, below.create, below.version + 1, 0, below)
        else:
            entry = Entry(name, revision, revision, 1, 0, below)
        index.apply(entry)
        index.revision = revision
        self.history[revision] = (entry, value or b"")
        if value is not None:
            self.values.put(revision, frame(entry, value))

    async def page(self, limit: int) -> None:
        start, revision = self.pages.get(limit, (b"k/", 0))
        if revision <= self.index.compact_revision:
            start, revision = b"k/", self.index.revision
        op = Range(start, b"l", limit, revision)
        answer = decoded(await self.range(op, revision))
        assert answer == self.expected(op, revision)
        self.pages[limit] = (answer.kvs[-1].key + b"\0", revision) if answer.more else (b"k/", 0)

    def expected(self, op: Range, revision: int) -> rpc.RangeResponse:
        latest = {entry.key: entry for number, (entry, _) in self.history.items() if number <= revision}
        found = [
            latest[name] for name in sorted(latest) if latest[name].version and in_range(name, op.key, op.end)
        ]
        answer = rpc.RangeResponse(count=len(found))
        if op.limit and len(found) > op.limit:
            found, answer.more = found[: op.limit], True
        for entry in found:
            value = self.history[entry.mod][1]
            answer.kvs.add(
                key=entry.key,
                create_revision=entry.create,
                mod_revision=entry.mod,
                version=entry.version,
                value=value,
            )
        return answer

    async def range(self, op: Range, revision: int) -> RangeResult:
        found = self.reads.range(op, revision, self.index.revision)
        return found if isinstance(found, RangeResult) else await found


def decoded(result: RangeResult) -> rpc.RangeResponse:
    answer = response_encoding.range_answer(b"", result)
    return rpc.RangeResponse.FromString(answer if isinstance(answer, bytes) else answer.joined())


async def follow(world: World, made) -> None:
    for name in KEYS[::2]:
        world.write(name, b"v" * 20)
    for step in made:
        match step:
            case ("put", name, size):
                world.write(name, b"v" * size)
            case ("delete", name) if world.index.live(name):
                world.write(name, None)
            case ("page", limit):
                await world.page(limit)
            case ("compact", back) if world.index.revision - back > world.index.compact_revision:
                forgotten = world.index.compact(world.index.revision - back)[1]
                world.values.drop_all(forgotten)
                world.reads.lists.compacted()
            case ("look", back):
                revision = max(world.index.compact_revision, world.index.revision - back)
                for start, end, limit in RANGES:
                    op = Range(start, end, limit, revision)
                    assert decoded(await world.range(op, revision)) == world.expected(op, revision)
    lent = world.reads.lists.size
    assert lent == sum(kept.size for kept in world.reads.lists._kept.values()) <= world.values.budget // 4


@settings(max_examples=120, deadline=None)
@given(steps, st.sampled_from([100, 3_000, 1 << 20]), st.sampled_from([4, 4_000]))
def test_answers_between_writes_are_as_the_history_has_them(made, budget, slice_):
    small = patch.object(range_cache, "CHUNK", 90), patch.object(range_select, "LONG", 60)
    with small[0], small[1], patch.object(range_select, "_SLICE", slice_):
        asyncio.run(follow(World(budget), made))


def loaded(count: int, size: int) -> World:
    world = World(1 << 30)
    for number in range(count):
        world.write(b"k/%06d" % number, b"v" * size)
    return world


def test_list_after_few_updates_shares_what_has_not_changed() -> None:
    async def listed() -> None:
        world = loaded(2_000, 1_000)
        op = Range(b"k/", b"k0")
        for _ in range(2):
            await world.range(op, 2_000)
        before = await world.range(op, 2_000)
        world.write(b"k/000700", b"new")
        world.write(b"k/000700x", b"more")
        world.write(b"k/001500", None)

        after = await world.range(op, 2_003)

        assert decoded(after) == world.expected(op, 2_003)
        shared = {id(chunk) for chunk in before.frames} & {id(chunk) for chunk in after.frames}
        assert len(before.frames) - len(shared) == 2

    asyncio.run(listed())


def test_pages_of_a_slow_list_are_not_counted_in_the_past() -> None:
    count = Index.count

    def counted(index: Index, key: bytes, end: bytes | None, revision: int) -> int:
        assert revision == index.revision
        return count(index, key, end, revision)

    async def listed() -> None:
        for limit, slice_ in ((500, 4_000), (500, 100), (10, 4_000)):  # long and cached, in slices, short
            world = loaded(2_000, 1_000)
            with patch.object(range_select, "_SLICE", slice_):
                for _ in range(3):
                    await world.page(limit)
                    for number in range(50):
                        world.write(b"k/%06d/more" % number, b"v" if world.index.revision % 2 else None)
                    with patch.object(Index, "count", counted):
                        await world.page(limit)

    asyncio.run(listed())


def test_same_range_asked_for_at_once_is_put_together_once() -> None:
    async def listed() -> None:
        world = loaded(9_000, 100)
        op = Range(b"k/", b"k0")

        answers = await asyncio.gather(*(world.range(op, 9_000) for _ in range(5)))

        assert len({id(answer.frames) for answer in answers}) == 1
        assert decoded(answers[0]) == world.expected(op, 9_000)

    asyncio.run(listed())


def test_range_asked_for_once_is_not_kept() -> None:
    async def listed() -> None:
        world = loaded(500, 1_000)
        await world.range(Range(b"k/", b"k0"), 500)
        assert world.reads.lists.size == 0

    asyncio.run(listed())


def test_range_not_asked_for_since_the_compact_revision_takes_no_memory() -> None:
    async def listed() -> None:
        world = loaded(500, 1_000)
        old, new = Range(b"k/", b"k0"), Range(b"k/000100", b"k0")
        for op in (old, old, new, new):
            await world.range(op, 500)
        world.write(b"k/000700", b"new")
        await world.range(new, 501)
        both = world.reads.lists.size
        world.values.drop_all(world.index.compact(501)[1])

        world.reads.lists.compacted()

        assert 0 < world.reads.lists.size < both
        hits = world.reads.lists.hits
        assert decoded(await world.range(new, 501)) == world.expected(new, 501)
        assert world.reads.lists.hits == hits + 1

    asyncio.run(listed())


def test_range_compacted_while_it_is_put_together_is_gone() -> None:
    async def listed() -> None:
        world = loaded(9_000, 10)
        answer = asyncio.ensure_future(world.range(Range(b"k/", b"k0"), 9_000))
        await asyncio.sleep(0)
        world.write(b"k/008999", b"new")
        world.index.compact(9_001)
        try:
            await answer
        except GoneError:
            return
        raise AssertionError("an answer from a revision that is compacted")

    asyncio.run(listed())


def test_a_long_list_that_nobody_awaits_leaves_nothing_behind() -> None:
    async def left() -> None:
        world = loaded(5_000, 10)
        answer = world.reads.range(Range(b"k/", b"k0"), 5_000, 5_000)
        UnreadValues(answer, lambda waiting: waiting).close()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(left())
        gc.collect()
    assert [str(warning.message) for warning in told] == []
