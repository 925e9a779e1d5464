"""Rows that Go kine v0.17.5 writes and etcd never would.

These are an update of a deleted key, a deletion of an absent key, and a row without a create revision. They
are tested on a database that Go kine has left, and while Go kine writes to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.client import DELETE, PUT, Client, WatchStream, prefix_end
from tests.commands.conftest import told
from tests.drivers import go_kine, go_rows
from tests.drivers.go_rows import Go17, fill, make_table
from tests.servers.kine import start_kine
from tests.txn_ops import delete, get, modified, put

if TYPE_CHECKING:
    from pathlib import Path

    from kine.proto import kv_pb2 as kv
    from tests.drivers.driver_databases import GoWriter, Place
    from tests.servers.process import Instance

GO = b"/go/", prefix_end(b"/go/")
_GO_COLUMNS = "name, created, deleted, create_revision, prev_revision, lease, value, old_value"


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    from tests.drivers.conftest import _place

    return _place(kind, request, tmp_path)


@pytest.fixture
def writer(place: Place, kind: str) -> Iterator[GoWriter]:
    """A writer on a database that has the table of Go kine, and no row."""
    if kind != "sqlite":
        with closing(place.server.admin()) as admin, admin.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(f"CREATE DATABASE {place.database}")  # type: ignore[attr-defined]
    opened = place.go()
    make_table(opened, kind)
    yield opened
    opened.close()


def serve(place: Place, directory: Path) -> Instance:
    return start_kine(place.endpoint(), "http2", directory)


@pytest.fixture
def left(writer: GoWriter, place: Place, tmp_path: Path) -> Iterator[Client]:
    """A client of a kine on a database that Go kine has left."""
    fill(writer)
    instance = serve(place, tmp_path)
    with Client(instance.address) as client:
        yield client
    assert instance.running, instance.log.read_text()[-2000:]
    assert "following the database failed" not in instance.log.read_text()
    instance.kill()


def shown(item: kv.KeyValue) -> tuple[bytes, bytes, int, int, int]:
    return item.key, item.value, item.create_revision, item.mod_revision, item.version


def seen(event: kv.Event) -> tuple[int, bytes, int, bytes]:
    return event.type, event.kv.key, event.kv.mod_revision, event.kv.value


LAST = len(go_rows.HISTORY)


def test_keys_are_as_they_were_left(left: Client) -> None:
    listed = left.range(*GO)

    assert listed.header.revision == LAST
    assert [shown(item) for item in listed.kvs] == [
        (b"/go/a", b"a3", 6, 6, 1),
        (b"/go/d", b"d2", 14, 14, 1),
        (b"/go/e", b"e1", 15, 15, 1),
    ]
    assert [left.range(*GO, revision=at, count_only=True).count for at in range(2, LAST + 1)] == [
        0, 1, 1, 0, 1, 2, 1, 1, 1, 2, 1, 1, 2, 3,
    ]  # fmt: skip


def test_a_watch_from_the_past_tells_changes_only(left: Client) -> None:
    """A deletion of an absent key is not sent: it has no previous value that a client could ask for."""
    with left.watch() as watch:
        watch.create(*GO, start_revision=2, prev_kv=True)
        events = watch.events(10)

    assert [seen(event) for event in events] == [
        (PUT, b"/go/a", 3, b"a1"),
        (PUT, b"/go/a", 4, b"a2"),
        (DELETE, b"/go/a", 5, b""),
        (PUT, b"/go/a", 6, b"a3"),
        (PUT, b"/go/b", 7, b"b1"),
        (DELETE, b"/go/b", 8, b""),
        (PUT, b"/go/d", 11, b"d1"),
        (DELETE, b"/go/d", 12, b""),
        (PUT, b"/go/d", 14, b"d2"),
        (PUT, b"/go/e", 15, b"e1"),
    ]
    assert [event.prev_kv.value for event in events if event.type == DELETE] == [b"a2", b"b1", b"d1"]
    assert not events[3].HasField("prev_kv"), "a key that is made anew"


def test_every_key_can_be_written_again(left: Client, writer: GoWriter, place: Place, tmp_path: Path) -> None:
    for key in (b"a", b"b", b"c", b"d", b"e"):
        before = left.get(b"/go/" + key)
        put = left.put(b"/go/" + key, b"ours")
        after = left.get(b"/go/" + key)
        assert after is not None
        assert after.mod_revision == put.header.revision
        assert after.version == (before.version + 1 if before else 1)
        assert after.create_revision == (before.create_revision if before else after.mod_revision)
    assert left.delete(b"/go/b").deleted == 1
    assert left.put(b"/go/b", b"again").header.revision == left.revision()

    found = told("check", "--endpoint", place.endpoint(), "--output", "json")
    assert (found.code, found.json) == (0, {"findings": []}), found


@pytest.mark.parametrize("compact_to", [6, 9])
def test_compaction_anywhere_keeps_what_is_there(
    writer: GoWriter, place: Place, tmp_path: Path, compact_to: int
) -> None:
    fill(writer)
    instance = serve(place, tmp_path / "first")
    with Client(instance.address) as client:
        before = [shown(item) for item in client.range(*GO).kvs]
        client.compact(compact_to)
        assert [shown(item) for item in client.range(*GO).kvs] == before
    assert instance.stop() == 0

    instance = serve(place, tmp_path / "again")
    with Client(instance.address) as client:
        assert [shown(item) for item in client.range(*GO).kvs] == before
        for key in (b"b", b"c"):
            client.put(b"/go/" + key)
        client.compact(client.revision())
        assert client.range(*GO, count_only=True).count == 5
    assert instance.stop() == 0
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"


def test_what_go_kine_compacts_leaves_no_finding(writer: GoWriter, place: Place, tmp_path: Path) -> None:
    """Go kine also removes the deletion at the compact revision, so the update of it has no row below."""
    fill(writer)
    writer.run("UPDATE kine SET prev_revision = 5 WHERE name = 'compact_rev_key'")
    writer.run("DELETE FROM kine WHERE id IN (3, 4, 5)")
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"

    instance = serve(place, tmp_path)
    with Client(instance.address) as client:
        item = client.get(b"/go/a")
        assert item is not None
        assert shown(item) == (b"/go/a", b"a3", 6, 6, 1)
        assert client.put(b"/go/a", b"ours", prev_kv=True).prev_kv.value == b"a3"
        item = client.get(b"/go/a")
        assert item is not None
        assert (item.create_revision, item.version) == (6, 2)
    assert instance.stop() == 0


def test_a_deletion_that_go_kine_passes_over_goes_with_the_next_compaction(
    writer: GoWriter, place: Place, tmp_path: Path
) -> None:
    """One at kine's compact revision stays: a watch may start there. Go kine's compaction starts after it."""
    instance = serve(place, tmp_path)
    with Client(instance.address) as client:
        client.put(b"/go/a")
        deletion = client.delete(b"/go/a").header.revision
        client.compact(deletion)
        replaced = client.put(b"/go/b").header.revision
        compacted = client.put(b"/go/b").header.revision
        # What a compaction of Go kine does.
        writer.run(f"DELETE FROM kine WHERE id = {replaced}")
        writer.run(f"UPDATE kine SET prev_revision = {compacted} WHERE name = 'compact_rev_key'")
        client.put(b"/go/b")
        client.compact(client.revision())
    assert instance.stop() == 0
    assert writer.run(f"SELECT id FROM kine WHERE id = {deletion}") == []
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"


def test_gaps_that_go_kine_fills_where_was_compacted_are_compacted(
    writer: GoWriter, place: Place, tmp_path: Path
) -> None:
    """A Go kine that lags behind a compaction takes the removed ids for gaps."""
    instance = serve(place, tmp_path / "first")
    with Client(instance.address) as client:
        client.put(b"/go/a")
        gone = client.delete(b"/go/a").header.revision
        client.put(b"/go/a", b"again")
        for _ in range(3):
            last = client.put(b"/go/b").header.revision
        client.compact(last, physical=True)
        for row_id in (gone - 1, gone, last - 2, last - 1):
            writer.run(
                f"INSERT INTO kine (id, {_GO_COLUMNS}) VALUES (?, ?, 0, 1, 0, 0, 0, NULL, NULL)",
                (row_id, f"gap-{row_id}"),
            )
        found = told("check", "--endpoint", place.endpoint(), "--output", "json").json["findings"]
        assert {finding["id"] for finding in found} == {"left-by-compaction"}, found

        again = serve(place, tmp_path / "again")
        with Client(again.address) as other:
            assert other.range(*GO) == client.range(*GO)
        assert again.stop() == 0
        client.compact(client.put(b"/go/b").header.revision, physical=True)
    assert instance.stop() == 0
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"


def test_they_arrive_while_it_serves(writer: GoWriter, place: Place, tmp_path: Path) -> None:
    instance = serve(place, tmp_path)
    go = Go17(writer)
    with Client(instance.address) as client, client.watch() as watch:
        watch.create(*GO, prev_kv=True)

        def event(watch: WatchStream) -> tuple[int, bytes, int, bytes]:
            [one] = watch.events(1)
            return seen(one)

        a = go.create("/go/a", b"1")
        assert event(watch) == (PUT, b"/go/a", a, b"1")
        a = go.delete("/go/a", a)
        assert event(watch) == (DELETE, b"/go/a", a, b"")
        a = go.update("/go/a", b"2", a)
        assert event(watch) == (PUT, b"/go/a", a, b"2")
        item = client.get(b"/go/a")
        assert item is not None
        assert shown(item) == (b"/go/a", b"2", a, a, 1)

        void = go.delete("/go/b", 0)
        assert client.revision() == void
        assert client.get(b"/go/b") is None
        b = client.put(b"/go/b", b"ours").header.revision
        assert event(watch) == (PUT, b"/go/b", b, b"ours")
        gone = go.delete("/go/b", b)
        assert event(watch) == (DELETE, b"/go/b", gone, b"")
        void = go.delete("/go/b", gone)
        assert client.revision() == void
        b = client.put(b"/go/b", b"again").header.revision
        assert event(watch) == (PUT, b"/go/b", b, b"again")
        assert go.update("/go/b", b"theirs", gone) == 0, "it is no longer at that row"
        b = go.update("/go/b", b"theirs", b)
        assert event(watch) == (PUT, b"/go/b", b, b"theirs")

        gap = go.delete(f"gap-{client.revision() + 1}", 0)
        mine = client.put(b"gap-%d" % gap, b"a client's").header.revision
        item = client.get(b"gap-%d" % gap)
        assert item is not None
        assert shown(item) == (b"gap-%d" % gap, b"a client's", mine, mine, 1)
    assert "following the database failed" not in instance.log.read_text()
    assert instance.stop() == 0
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"


@pytest.mark.skipif(bool(go_kine.missing()), reason=go_kine.missing())
def test_the_rows_here_are_those_that_go_kine_writes(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    instance = go_kine.start_go_kine(f"sqlite://{path}?_journal_mode=WAL", tmp_path)
    with Client(instance.address) as client:

        def update(key: bytes, mod: int, value: bytes) -> None:
            answer = client.txn([modified(key, "=", mod)], [put(key, value)], [get(key)])
            assert answer.succeeded, key

        def remove(key: bytes, mod: int) -> None:
            client.txn([modified(key, "=", mod)], [delete(key)], [get(key)])

        update(b"/go/a", 0, b"a1")
        update(b"/go/a", 3, b"a2")
        remove(b"/go/a", 4)
        update(b"/go/a", 5, b"a3")
        update(b"/go/b", 0, b"b1")
        remove(b"/go/b", 7)
        remove(b"/go/b", 8)
        remove(b"/go/c", 0)
        update(b"/go/d", 0, b"d1")
        remove(b"/go/d", 11)
        remove(b"/go/d", 12)
        update(b"/go/d", 0, b"d2")
        client.txn([modified(b"/go/e", "=", 0)], [put(b"/go/e", b"e1", lease=3600)], [get(b"/go/e")])
    instance.stop()
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT name, created, deleted, create_revision, prev_revision, lease, value, old_value"
            " FROM kine ORDER BY id"
        ).fetchall()

    assert rows == [tuple(row) for row in go_rows.HISTORY]
    ours = start_kine(f"sqlite://{path}", "http2", tmp_path)
    with Client(ours.address) as client:
        assert client.range(*GO, count_only=True).count == 3
    assert ours.stop() == 0
    assert told("check", "--endpoint", f"sqlite://{path}").out == "nothing found\n"
