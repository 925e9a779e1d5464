"""The default endpoint: ./db/state.db in the working directory, as in Go kine, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from tests.client import Client
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_there_is_served(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    before = start_kine(f"sqlite://{tmp_path / 'db' / 'state.db'}", "http2", tmp_path)
    with Client(before.address) as client:
        client.put(b"/kept", b"by another start")
    before.stop()

    server = start_kine("", "http2", tmp_path)

    with Client(server.address) as client:
        assert client.get(b"/kept").value == b"by another start"  # type: ignore[union-attr]
    server.stop()
    assert not list(tmp_path.glob("*.db"))


def test_what_is_not_there_is_made_where_go_kine_makes_it(tmp_path: Path) -> None:
    server = start_kine("", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/new", b"v")
    server.stop()

    path = tmp_path / "db" / "state.db"
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM kine WHERE id = 3").fetchall() == [("/new",)]
