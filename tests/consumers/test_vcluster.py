"""vCluster: /binaries/kine next to its API server, in /data, on a socket."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tests.client import Client
from tests.executable import address

if TYPE_CHECKING:
    import subprocess

    from tests.consumers.conftest import Place

# Kubernetes sets these for a service named kine; they are not kine's settings.
SERVICE_LINKS = {
    "KINE_PORT": "tcp://10.96.0.7:2379",
    "KINE_SERVICE_HOST": "10.96.0.7",
    "KINE_SERVICE_PORT": "2379",
}


def arguments(place: Place) -> list[str]:
    path = place.inside("/data/state.db")
    return [
        f"--endpoint=sqlite://{path}?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
        "--metrics-bind-address=127.0.0.1:0",
        f"--listen-address=unix://{place.inside('/data/kine.sock')}",
    ]


def start(place: Place) -> subprocess.Popen[bytes]:
    place.directory("/data")
    place.stage("/binaries/kine")
    return place.start(
        "/binaries/kine", arguments(place), directory="/data", user=0, group=0, environment=SERVICE_LINKS
    )


def socket(place: Place) -> str:
    return f"unix://{place.outside('/data/kine.sock')}"


def test_it_serves_on_the_socket_and_ends_by_sigterm_every_200_ms(place: Place) -> None:
    kine = start(place)
    address(kine)
    with Client(socket(place)) as client:
        assert len(client.members().members) == 1
        client.put(b"/registry/a", b"1")
    while kine.poll() is None:
        kine.terminate()
        time.sleep(0.2)

    again = start(place)
    address(again)
    with Client(socket(place)) as client:
        assert client.get(b"/registry/a") is not None
    again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0


def test_an_orphan_is_found_by_its_name_and_its_socket_is_taken_over(place: Place) -> None:
    orphan = start(place)
    address(orphan)
    words = Path(f"/proc/{orphan.pid}/cmdline").read_bytes().split(b"\0")
    if place.root:  # the installed package runs as Python, which vCluster does not start
        assert words[0] == b"/binaries/kine"
        assert Path(f"/proc/{orphan.pid}/task/{orphan.pid}/children").read_text() == ""
    orphan.kill()
    orphan.wait()
    assert place.outside("/data/kine.sock").exists()

    kine = start(place)
    address(kine)
    with Client(socket(place)) as client:
        client.put(b"/registry/a", b"1")


def test_restore_sets_the_revision(place: Place) -> None:
    """Starts kine, waits for the file, stops it, sets the sequence, and starts it again."""
    first = start(place)
    path = place.outside("/data/state.db")
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 0
    with closing(sqlite3.connect(path)) as database:
        changed = database.execute("UPDATE SQLITE_SEQUENCE SET seq = 5000 WHERE name = 'kine'").rowcount
        database.commit()

    again = start(place)
    address(again)
    with Client(socket(place)) as client:
        revision = client.put(b"/restored").header.revision
    assert changed == 1
    assert revision > 5000
