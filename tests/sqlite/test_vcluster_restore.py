"""vCluster's restore: it waits for the file, ends kine, sets the sequence, and starts kine again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.client import Client
from tests.servers.kine import ROOT, start_kine

if TYPE_CHECKING:
    from pathlib import Path

RESTORED = 1000
PATIENCE = 60.0  # seconds


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, 0), (signal.SIGINT, 0.01), (signal.SIGTERM, 0), (signal.SIGINT, 0.1)],
)
def test_a_signal_as_soon_as_the_file_is_there_leaves_it_whole(
    tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    path = tmp_path / "state.db"
    command = [sys.executable, "-m", "kine", f"--endpoint=sqlite://{path}", "--listen-address=127.0.0.1:0"]
    first = subprocess.Popen(
        [*command, "--metrics-bind-address=0"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)

    first.send_signal(number)

    assert first.wait(PATIENCE) == 0
    with closing(sqlite3.connect(path)) as database:
        changed = database.execute("UPDATE SQLITE_SEQUENCE SET seq = ? WHERE name = 'kine'", (RESTORED,))
        assert changed.rowcount == 1
        rows = database.execute("SELECT id, name FROM kine ORDER BY id").fetchall()
        database.commit()
    assert rows == [(1, "compact_rev_key"), (2, "/registry/health")]
    again = start_kine(f"sqlite://{path}", "http2", tmp_path)
    with Client(again.address) as client:
        assert client.put(b"/restored").header.revision > RESTORED
    again.stop()


@pytest.mark.parametrize(
    "delays", [(0, 0.003), pytest.param((0.001, 0.006, 0.01, 0.02, 0.04, 0.08), marks=pytest.mark.engines)]
)
def test_killed_while_the_first_file_is_made_the_next_start_serves(
    tmp_path: Path, delays: tuple[float, ...]
) -> None:
    """SIGKILL as soon as the file exists: the next start completes a half-created one."""
    for number, delay in enumerate(delays):
        path = tmp_path / f"{number}" / "state.db"
        command = [
            sys.executable,
            "-m",
            "kine",
            f"--endpoint=sqlite://{path}",
            "--listen-address=127.0.0.1:0",
        ]
        first = subprocess.Popen(
            [*command, "--metrics-bind-address=0"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(delay)
        first.kill()
        first.wait()

        again = start_kine(f"sqlite://{path}", "http2", tmp_path)
        with Client(again.address) as client:
            client.put(b"/a", b"1")
            assert client.get(b"/a") is not None
        assert again.stop() == 0
