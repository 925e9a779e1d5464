"""The index against a list of all changes, which answers every query the slow and obvious way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kine.store.index import Entry, Index, in_range

KEYS = [b"a", b"a\0", b"a/b", b"a/c", b"b", b"b/\xff", b"c"]
keys = st.sampled_from(KEYS)
ends = st.one_of(st.none(), st.just(b""), st.sampled_from([*KEYS, b"d"]))
changes = st.lists(st.tuples(keys, st.booleans()), max_size=40)


def build(made: list[tuple[bytes, bool]]) -> tuple[Index, list[Entry]]:
    index = Index()
    history = []
    for revision, (key, put) in enumerate(made, 1):
        below = index.newest.get(key)
        live = below is not None and below.version > 0
        if put:
            version = below.version + 1 if live and below else 1
            create = below.create if live and below else revision
            entry = Entry(key, revision, create, version, 0, below)
        else:
            entry = Entry(key, revision, 0, 0, 0, below)
        index.apply(entry)
        index.revision = revision
        history.append(entry)
    return index, history


def expected(history: list[Entry], key: bytes, end: bytes | None, revision: int) -> list[Entry]:
    latest = {entry.key: entry for entry in history if entry.mod <= revision}
    return [latest[name] for name in sorted(latest) if latest[name].version and in_range(name, key, end)]


@given(changes, keys, ends, st.integers(0, 40))
def test_scan_and_count_answer_as_the_history_does(made, key, end, revision):
    index, history = build(made)
    wanted = expected(history, key, end, revision)
    assert index.scan(key, end, revision) == wanted
    assert index.count(key, end, revision) == len(wanted)


@given(changes, keys, ends, st.integers(0, 40), st.integers(1, 4))
def test_limited_scan_is_the_head_of_the_whole(made, key, end, revision, limit):
    index, history = build(made)
    assert index.scan(key, end, revision, limit) == expected(history, key, end, revision)[:limit]


@given(changes, st.integers(0, 40), keys, ends, st.integers(0, 40))
def test_compaction_changes_no_answer_at_or_after_it(made, compacted, key, end, later):
    index, history = build(made)
    compacted = min(compacted, index.revision)
    index.compact(compacted)
    revision = min(compacted + later, index.revision)
    wanted = expected(history, key, end, revision)
    assert index.scan(key, end, revision) == wanted
    assert index.count(key, end, revision) == len(wanted)
    assert len(index) == len(expected(history, b"\0", b"", index.revision))


@given(changes, st.lists(st.integers(0, 40), max_size=3))
def test_what_compactions_leave_is_what_is_needed(made, compactions):
    index, history = build(made)
    for revision in sorted(min(each, index.revision) for each in compactions):
        index.compact(revision)
    compacted = index.compact_revision
    reachable = set()
    for entry in index.newest.values():
        while entry is not None:
            reachable.add(entry.mod)
            entry = entry.below
    needed = {entry.mod for entry in expected(history, b"\0", b"", compacted)}
    needed |= {entry.mod for entry in history if entry.mod > compacted}
    at_it = {entry.mod for entry in history if entry.mod == compacted > 0}
    assert reachable == needed | at_it
    assert [entry.mod for entry in index.log] == [
        entry.mod for entry in history if entry.mod > compacted or entry.mod == compacted > 0
    ]


@given(changes, st.integers(0, 41))
def test_since_finds_the_first_change_at_or_after(made, revision):
    index, history = build(made)
    assert index.log[index.since(revision) :] == [entry for entry in history if entry.mod >= revision]


@given(changes, st.integers(0, 40))
def test_loading_gives_the_same_index_as_applying(made, revision):
    applied, history = build(made)
    loaded = Index()
    loaded.load(history)
    loaded.loaded()
    loaded.revision = applied.revision
    assert len(loaded) == len(applied)
    assert loaded.scan(b"\0", b"", applied.revision) == applied.scan(b"\0", b"", applied.revision)
    assert loaded.count(b"\0", b"", applied.revision) == applied.count(b"\0", b"", applied.revision)
    assert loaded.count(b"\0", b"", revision) == applied.count(b"\0", b"", revision)


def test_counting_the_past_does_not_depend_on_the_updates_since():
    """A list's pages are counted at the first page's revision, minutes of updates ago (`bench soak`)."""
    index, _ = build([(b"a", True), (b"c", True), *[(b"a", True)] * 1000, (b"c", False)])
    visited = []

    class Seen(bytes):
        def __le__(self, other):
            visited.append(other)
            return bytes.__le__(self, other)

    assert index.count(Seen(b"b"), b"d", 2) == 1
    assert len(visited) < 100
