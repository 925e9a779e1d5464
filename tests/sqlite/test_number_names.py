"""Files made by Go kine up to v0.16.2, whose keys may be stored as numbers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.client import Client
from tests.commands.conftest import told
from tests.drivers.go_rows import SCHEMAS
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

_INSERT = (
    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
    " VALUES (?, 1, 0, 0, 0, 0, ?)"
)


def make(path: Path, declared: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in SCHEMAS["sqlite"]:
            connection.execute(statement.replace("name TEXT", "name INTEGER"))
        for name, value in (("compact_rev_key", b""), ("/a", b"a"), ("1e3", b"thousand"), ("0777", b"seven")):
            connection.execute(_INSERT, (name, value))
        if declared == "TEXT":  # by v0.17.5, which leaves the rows as they are
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'name INTEGER', 'name TEXT')")
            connection.execute("PRAGMA writable_schema = RESET")


@pytest.mark.parametrize("migration", ["", "2"])
@pytest.mark.parametrize("declared", ["INTEGER", "TEXT"])
def test_keys_that_read_as_numbers_are_kept_apart(tmp_path: Path, declared: str, migration: str) -> None:
    path = tmp_path / "state.db"
    make(path, declared)
    endpoint = f"sqlite://{path}"
    found = told("check", "--endpoint", endpoint, "--output", "json")
    assert [(one["id"], one["names"]) for one in found.json["findings"]] == [
        ("number-for-name", ["1000", "777"])
    ]
    keys = (b"1e3", b"1e03", b"0123", b"123", b" 5", b"5.0", b"5", b"9223372036854775808")

    for _ in range(2):
        server = start_kine(endpoint, "http2", tmp_path, environment={"KINE_SCHEMA_MIGRATION": migration})
        with Client(server.address) as client:
            kept = client.get(b"1000")
            assert kept is not None
            assert kept.value == b"thousand"
            for key in keys:
                client.put(key, key)
            assert [item.value for item in client.range(b"\0", b"\0").kvs if item.key in keys] == sorted(keys)
        assert server.stop() == 0

    assert told("check", "--endpoint", endpoint).out == "nothing found\n"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT DISTINCT typeof(name) FROM kine").fetchall() == [("text",)]
