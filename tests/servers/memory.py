"""kine on `memory://`: nothing outlives the process, and no second instance can share it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.servers import Backend, Capabilities
from tests.servers.kine import missing, start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

TRANSPORT = "http2"  # other backends run on every transport; the difference here is below it


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    return start_kine("memory://", TRANSPORT, directory, progress_interval=progress_interval, flags=flags)


BACKENDS = [
    Backend(
        kind="memory",
        transport=TRANSPORT,
        capabilities=Capabilities(second_instance=False, durable=False, survives_kill=False),
        missing=partial(missing, TRANSPORT),
        start=start,
    )
]
