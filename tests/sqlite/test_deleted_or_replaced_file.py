"""Files that are deleted or replaced under a running server."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest

from tests.client import Client
from tests.databases.process import free_port
from tests.servers.kine import start_kine

BOUND = 60.0  # seconds


def refused(client: Client) -> bool:
    try:
        client.put(b"/a", b"later")
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def not_ready(port: int) -> str:
    """The text of /readyz once the server has noticed."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        try:
            urlopen(f"http://127.0.0.1:{port}/readyz", timeout=BOUND).close()
        except HTTPError as error:
            return error.read().decode()
        time.sleep(0.05)
    return ""


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("",), ("-wal",)])
def test_no_write_is_acknowledged_into_a_deleted_file(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    path, port = tmp_path / "state.db", free_port()
    server = start_kine(
        f"sqlite://{path}", "http2", tmp_path, flags=(f"--metrics-bind-address=127.0.0.1:{port}",)
    )
    with Client(server.address) as client:
        client.put(b"/a", b"before")
        for suffix in suffixes:
            os.unlink(f"{path}{suffix}")

        assert refused(client)
        assert "deleted" in not_ready(port)
        with pytest.raises(grpc.RpcError):
            client.get(b"/a")
        assert client.range(b"/a", serializable=True).kvs[0].value == b"before"
    assert server.log.read_text().count("restore a backup") >= 1
    server.kill()


def test_it_is_noticed_without_a_write(tmp_path: Path) -> None:
    path, port = tmp_path / "state.db", free_port()
    server = start_kine(
        f"sqlite://{path}", "http2", tmp_path, flags=(f"--metrics-bind-address=127.0.0.1:{port}",)
    )
    os.rename(path, tmp_path / "away.db")

    assert "deleted" in not_ready(port)
    os.rename(tmp_path / "away.db", path)
    with Client(server.address) as client:
        deadline = time.monotonic() + BOUND
        while refused(client) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get(b"/a").value == b"later"
    server.kill()


def test_a_replaced_file_is_left_to_who_replaced_it(tmp_path: Path) -> None:
    """SQLite unlinks the write-ahead log by its name when the last connection is closed."""
    path = tmp_path / "state.db"
    first = start_kine(f"sqlite://{path}", "http2", tmp_path)
    with Client(first.address) as client:
        client.put(b"/a", b"first")
        for suffix in ("", "-wal", "-shm"):
            os.unlink(f"{path}{suffix}")
        second = start_kine(f"sqlite://{path}", "http2", tmp_path)
        assert refused(client)
    with Client(second.address) as client:
        revision = client.put(b"/a", b"second").header.revision
        assert first.stop() == 0
        assert client.put(b"/b", b"second").header.revision == revision + 1
    second.kill()
    rows = sqlite3.connect(path).execute("SELECT name FROM kine WHERE id >= ? ORDER BY id", (revision,))
    assert rows.fetchall() == [("/a",), ("/b",)]
