"""Starting before the database is reachable."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.client import Client
from tests.databases.process import free_port
from tests.databases.proxy_process import ProxyProcess
from tests.faults.run_databases import KINDS, missing, new_place
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance


def test_a_server_that_waits_for_its_database_stops_when_told_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        sys.executable, "-m", "kine", "--listen-address=127.0.0.1:0", "--metrics-bind-address=0",
        f"--endpoint=postgres://kine:hidden-word@127.0.0.1:{free_port()}/kine",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while b"waiting for the database" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
    assert b"waiting for the database" in log.read_bytes()
    assert b"hidden-word" not in log.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_that_comes_late_is_waited_for(kind: str, tmp_path: Path) -> None:
    if reason := missing(kind):
        pytest.skip(reason)
    place = new_place(kind)
    started: list[Instance] = []
    with ProxyProcess(place.server.port) as proxy:  # type: ignore[attr-defined]
        proxy.refuse()
        endpoint = place.endpoint(port=proxy.port)
        thread = threading.Thread(target=lambda: started.append(start_kine(endpoint, "http2", tmp_path)))
        thread.start()
        deadline = time.monotonic() + 60
        while not any("waiting for the database" in log.read_text() for log in tmp_path.glob("*.log")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not started
        proxy.heal()
        thread.join(60)
        [instance] = started
        with Client(instance.address) as client:
            assert client.put(b"/registry/late").header.revision > 0
        assert "secret" not in instance.log.read_text()
        instance.kill()
