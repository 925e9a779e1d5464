"""kine on NATS JetStream: external, embedded, and on a cluster of three."""

from __future__ import annotations

import threading
from functools import cache, partial
from typing import TYPE_CHECKING

from tests.databases import nats
from tests.servers import Backend, Capabilities
from tests.servers.kine import missing as kine_missing
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

TRANSPORT = "http2"  # grpcio's behaviour does not depend on the database; one transport saves minutes
HISTORY = "revHistory=64"  # the suite reads further back than 10 revisions; dropped history has its own tests
_buckets: dict[Path, str] = {}
_CHOOSING = threading.Lock()  # see `tests.servers.kine`


@cache
def database_server(nodes: int) -> nats.Nats:
    return nats.Nats(nodes)


def start_external(
    directory: Path,
    *,
    nodes: int,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    # `durable` changes nothing: it is kine that is killed, not NATS.
    with _CHOOSING:
        server = database_server(nodes)
        bucket = _buckets.setdefault(directory, server.new_bucket())
    return start_kine(
        server.endpoint(bucket, parameters=HISTORY),
        TRANSPORT,
        directory,
        progress_interval=progress_interval,
        flags=flags,
    )


def start_embedded(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    # `durable` changes nothing: the server writes before it acknowledges; power loss would lose some.
    return start_kine(
        f"nats://?dataDir={directory / 'nats'}&{HISTORY}",
        TRANSPORT,
        directory,
        progress_interval=progress_interval,
        flags=flags,
    )


def missing() -> str:
    return nats.missing() or kine_missing(TRANSPORT)


CAPABILITIES = Capabilities(holds_long_keys=False)

# The random tests take minutes here, with a network round trip per read: they run only with --backend.
MOST = frozenset(
    {
        "test_bytes", "test_compact", "test_compare", "test_delete", "test_faults", "test_keys",
        "test_kubernetes", "test_lease", "test_maintenance", "test_put", "test_range", "test_range_order",
        "test_range_pages", "test_rpcs", "test_services", "test_txn", "test_watch", "test_watch_progress",
        "test_watch_stream",
    }
)  # fmt: skip
BRIEF = frozenset({"test_kubernetes", "test_watch"})

BACKENDS = [
    Backend(
        "nats",
        TRANSPORT,
        CAPABILITIES,
        missing,
        partial(start_external, nodes=1),
        subset=MOST,
    ),
    Backend(
        "nats-embedded",
        TRANSPORT,
        Capabilities(second_instance=False, holds_long_keys=False),
        missing,
        start_embedded,
        subset=BRIEF | {"test_kill"},
    ),
    Backend(
        "nats-cluster",
        TRANSPORT,
        CAPABILITIES,
        missing,
        partial(start_external, nodes=3),
        subset=BRIEF | {"test_compact"},
    ),
]
