"""kine in front of a real etcd: its capabilities are that etcd's. One etcd for each directory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.cleanup_at_exit import ENDINGS
from tests.servers import Backend, etcd
from tests.servers.kine import missing as kine_missing
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

TRANSPORT = "http2"  # other backends run on every transport; the difference here is below it

_etcds: dict[Path, Instance] = {}


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    # The etcd outlives kine, as a database does.
    behind = _etcds.get(directory)
    if behind is None:
        behind = etcd.start(directory, durable=durable, progress_interval=progress_interval)
        _etcds[directory] = behind
        ENDINGS.callback(behind.kill)
    return start_kine(f"http://{behind.address}", TRANSPORT, directory, flags=flags)


def missing() -> str:
    return etcd.missing() or kine_missing(TRANSPORT)


BACKENDS = [
    Backend(
        kind="passthrough",
        transport=TRANSPORT,
        capabilities=replace(etcd.BACKENDS[0].capabilities, survives_kill=True),
        missing=missing,
        start=start,
    )
]
