"""An idle server sleeps, and other processes' commits wake it."""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

import pytest

from tests.client import Client
from tests.servers.kine import start_kine

if not sys.platform.startswith("linux"):
    pytest.skip("inotify is Linux's", allow_module_level=True)

SECONDS = 3.0


def wake_ups(pid: int) -> int:
    """Voluntary context switches of its threads, that is, how often they have gone to sleep."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        [line] = [line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt")]
        found += int(line.split()[1])
    return found


def test_idle_server_sleeps(tmp_path: Path) -> None:
    server = start_kine(f"sqlite://{tmp_path}/state.db", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/a", b"1")
    time.sleep(1)  # lets it finish its start

    before = wake_ups(server.process.pid)
    time.sleep(SECONDS)

    assert wake_ups(server.process.pid) - before < 10 * SECONDS  # polling every 20 ms would make 50 a second
    server.kill()


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_commit_of_another_process_reaches_a_watch(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "state.db"
    server = start_kine(f"sqlite://{path}?_journal={journal}", "http2", tmp_path)
    with Client(server.address) as client:
        stream = client.watch()
        stream.create(b"/b", b"/c")
        for number in range(5):  # the first may fall into what the start still does
            with sqlite3.connect(path, timeout=30) as other:
                other.execute(
                    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
                    " VALUES (?, 1, 0, 0, 0, 0, ?)",
                    (f"/b/{number}", b"by another"),
                )
            other.close()
            [event] = stream.events(1)
            assert event.kv.key == b"/b/%d" % number
    server.kill()
