"""Groups of rows as they are written to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kine.drivers.base import NewRow, Options
from kine.drivers.sqlite.dsn import parse
from kine.drivers.sqlite.log import SqliteLog
from tests.drivers.row_shorthand import created, deleted, updated, write


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = SqliteLog(parse(f"sqlite://{tmp_path / 'state.db'}"), Options())
    await opened.open()
    yield opened
    await opened.close()


def rows_in(tmp_path: Path, columns: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(tmp_path / "state.db")
    found = connection.execute(f"SELECT {columns} FROM kine ORDER BY id").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("lease", [0, 7])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
async def test_group_of_any_size_is_appended_whole(
    log: SqliteLog, tmp_path: Path, count: int, lease: int
) -> None:
    await log.append([write(created(b"/first"))], 0)
    rows = [created(b"/%03d" % number, b"%d" % number, lease=lease) for number in range(count)]

    outcome = await log.append([write(row) for row in rows], 1)

    assert [list(ids or ()) for ids in outcome] == [[2 + number] for number in range(count)]
    assert rows_in(tmp_path, "id, name, value")[1:] == [
        (2 + number, f"/{number:03}", b"%d" % number) for number in range(count)
    ]
    assert len((await log.tail(1, 500)).rows) == count
    assert all(row.lease == lease for row in (await log.tail(1, 500)).rows)


@pytest.mark.parametrize("lease", [0, 7])
async def test_what_a_row_replaces_stands_beside_it_whether_recalled_or_read(
    log: SqliteLog, tmp_path: Path, lease: int
) -> None:
    log.recall = {1: b"one"}.get
    await log.append([write(created(b"/a", b"one")), write(created(b"/b", b"two"))], 0)
    again = NewRow(b"/b", False, False, 2, 2, 0, b"4", lease)
    await log.append([write(updated(b"/a", 1, 1, b"3")), write(again)], 2)
    await log.append([write(deleted(b"/a", 3))], 4)
    await log.append([write(created(b"/a", b"6", prev=5))], 5)
    # Others have written: rows are inserted one at a time.
    await log.append([write(updated(b"/a", 6, 6, b"7"))], 1)

    assert rows_in(tmp_path, "value, old_value") == [
        (b"one", None), (b"two", None), (b"3", b"one"), (b"4", b"two"), (None, b"3"), (b"6", None),
        (b"7", b"6"),
    ]  # fmt: skip


async def test_rows_that_hang_together_are_undone_together(log: SqliteLog, tmp_path: Path) -> None:
    await log.append([write(created(b"/a"))], 0)

    outcome = await log.append([write(created(b"/b"), created(b"/a")), write(created(b"/c"))], 0)

    assert outcome[0] is None
    assert [name for (name,) in rows_in(tmp_path, "name")] == ["/a", "/c"]


async def test_rows_beyond_the_counter_are_known_of_at_once(log: SqliteLog, tmp_path: Path) -> None:
    """A restore, or a manual change, leaves the counter behind after another process has written."""
    await log.append([write(created(b"/a")), write(created(b"/b"))], 0)
    assert log.peek() == 2
    other = sqlite3.connect(tmp_path / "state.db")
    with other:
        other.execute("INSERT INTO kine (id, name, created, deleted) VALUES (3, '/c', 1, 0), (4, '/d', 1, 0)")
        other.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'kine'")
    other.close()

    assert log.peek() == 4
    assert await log.newest() == 4
