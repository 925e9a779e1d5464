"""File modes: data files and the socket are accessible to their owner only, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client
from tests.databases import nats
from tests.servers.kine import TRANSPORTS, start_kine


@pytest.fixture
def no_umask() -> Iterator[None]:
    former = os.umask(0)
    yield
    os.umask(former)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sqlite_file_and_socket(tmp_path: Path, transport: str) -> None:
    socket, folder = tmp_path / "kine.sock", tmp_path / "data"
    listen = f"--listen-address=unix://{socket}"
    server = start_kine(f"sqlite://{folder}/state.db", transport, tmp_path / "run", flags=(listen,))
    with Client(f"unix:{socket}") as client:
        client.put(b"/registry/secrets/a", b"v")
        client.snapshot()
        found = {path.name: mode(path) for path in folder.iterdir()}

    assert (mode(folder), mode(socket)) == (0o700, 0o600)
    assert found == dict.fromkeys(("state.db", "state.db-reserve", "state.db-shm", "state.db-wal"), 0o600)
    server.kill()


@pytest.mark.usefixtures("no_umask")
@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
def test_embedded_nats(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    server = start_kine(f"nats://?dataDir={folder}", "http2", tmp_path / "run")
    with Client(server.address) as client:
        client.put(b"/registry/secrets/a", b"v")

    assert mode(folder) == 0o700
    assert [str(path) for path in folder.rglob("*") if mode(path) & 0o007 and path.suffix != ".log"] == []
    server.kill()
