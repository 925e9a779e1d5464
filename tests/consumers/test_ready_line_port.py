"""testcontainers (rusternetes), kcp's launcher, nsx-operator: a port chosen by kine and logged to stderr."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.client import Client

if TYPE_CHECKING:
    from tests.consumers.conftest import Place

READY = re.compile(r"Kine available at (http://127\.0\.0\.1:(\d+))")


def test_the_ready_line_tells_the_port_and_memory_leaves_no_file(place: Place) -> None:
    place.stage("/bin/kine")
    place.directory("/work", owner=65534, group=65534)
    kine = place.start(
        "/bin/kine",
        ["--endpoint", "sqlite://file::memory:?cache=shared", "--listen-address", "127.0.0.1:0"],
        directory="/work",
        environment={"KINE_METRICS_BIND_ADDRESS": "0"},
    )
    assert kine.stderr is not None
    found = next(match for line in kine.stderr if (match := READY.search(line.decode())))
    with Client(f"127.0.0.1:{found[2]}") as client:
        client.put(b"/a", b"1")
    kine.terminate()
    assert kine.wait(60) == 0
    assert [path.name for path in place.outside("/work").iterdir() if not path.name.startswith("kine-")] == []
