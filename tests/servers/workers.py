"""kine as two workers on SQLite: a client connects to either, and reads the same."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.servers import Backend, Capabilities
from tests.servers.kine import missing, start_sqlite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

TRANSPORT = "http2"  # workers need it
# `--backend` runs the others too. Some tests of test_watch expect that a watch from now on sees nothing that
# was acknowledged before; at another worker, as at a lagging etcd member, it may.
SUBSET = frozenset({"test_kubernetes", "test_put", "test_txn"})


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    return start_sqlite(
        directory,
        transport=TRANSPORT,
        durable=durable,
        progress_interval=progress_interval,
        flags=("--workers=2", *flags),
    )


BACKENDS = [
    Backend(
        kind="sqlite-workers",
        transport=TRANSPORT,
        capabilities=Capabilities(),
        missing=partial(missing, TRANSPORT),
        start=start,
        subset=SUBSET,
    )
]
