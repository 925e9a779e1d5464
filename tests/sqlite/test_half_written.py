"""A transaction that a killed process left half written in the file, with its rollback journal."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.client import Client
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

# Pages that do not fit into the cache are written before the commit, which never comes.
HALF = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = DELETE")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
for number in range(500):
    database.execute("INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)"
                     " VALUES (?, 1, 0, 0, 0, 0, zeroblob(4000))", (f"/half/{number}",))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def half_written(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    server = start_kine(f"sqlite://{path}?_journal_mode=DELETE", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/a", b"1")
    assert server.stop() == 0
    subprocess.run([sys.executable, "-c", HALF, path], check=False)
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader,
        pytest.raises(sqlite3.OperationalError),  # SQLITE_READONLY_ROLLBACK: as this test needs it
    ):
        reader.execute("SELECT count(*) FROM kine")
    return path


@pytest.mark.parametrize("parameters", ["", "?_journal_mode=DELETE"])
def test_next_start_undoes_it_and_serves(half_written: Path, tmp_path: Path, parameters: str) -> None:
    again = start_kine(f"sqlite://{half_written}{parameters}", "http2", tmp_path)

    with Client(again.address) as client:
        assert client.get(b"/a").value == b"1"
        assert client.get(b"/half/1") is None
        client.put(b"/b", b"2")
    assert again.stop() == 0


@pytest.mark.parametrize("command", ["check", "status"])
def test_commands_undo_it_and_read(half_written: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kine", command, f"--endpoint=sqlite://{half_written}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_copy_leaves_it_out(half_written: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"

    subprocess.run(
        [sys.executable, "-m", "kine", "snapshot", "save", f"--endpoint=sqlite://{half_written}", copy],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip

    assert b"/half/" not in copy.read_bytes()
