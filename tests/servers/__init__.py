"""Kinds of server the shared suite runs against.

Every module of this package whose name is not `process` lists its kinds in `BACKENDS`; to add one, add a file
here. A test asks for what it needs through `Capabilities`, never by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.process import Instance


def any_bytes(key: bytes) -> bool:
    return True


def text_without_nul(key: bytes) -> bool:
    """Whether PostgreSQL's text type can hold the key: valid UTF-8 without NUL."""
    return b"\0" not in key and key.decode("utf-8", "replace").encode() == key


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The ways in which a kind of server may differ from the others."""

    # The writes of one Txn or DeleteRange share one revision, as in etcd; else each takes the next one (one
    # row per write), the header has the last, and events of one Txn may arrive in several responses.
    one_revision_per_txn: bool = False
    # Only the client's own writes advance the revision, each by exactly one.
    dense_revisions: bool = True
    # A client's `compact_rev_key` is stored apart from the server's own, and reads back under its name.
    redirects_compact_rev_key: bool = True
    # `/registry/health` exists from the start, as Kubernetes' health checks expect of kine.
    has_health_key: bool = True
    # A progress response never overtakes events (etcd from 3.5.8, 3.4.25).
    progress_in_step: bool = True
    # A watch from the compact revision itself sees a deletion at it (etcd from 3.5.18).
    keeps_tombstone_at_compact_revision: bool = True
    # A watch from a negative revision is cancelled (etcd from 3.5.21; before, it starts now).
    refuses_negative_start_revision: bool = True
    # A sort order or target outside the enum is refused (3.5.1: an unknown target ends etcd).
    checks_sort_options: bool = True
    # A second process may serve the same data at the same time.
    second_instance: bool = True
    # Acknowledged writes survive a restart.
    durable: bool = True
    # And SIGKILL, started durable (until 3.5.5 a lone etcd acknowledges first: etcd-io/etcd#14370).
    survives_kill: bool = True
    # Maintenance/Snapshot returns the database.
    # Whether it can store a key; others are refused with a reason.
    holds_key: Callable[[bytes], bool] = any_bytes
    # Status has the current size; else that of the database's own statistics, some time later.
    live_size: bool = True
    # gRPC server reflection.
    reflection: bool = True
    # Auth, MoveLeader, Downgrade and changes of membership answer Unimplemented.
    single_member_without_auth: bool = True
    # A watch that compaction has cancelled is gone: its id is free, and cancelling it gets no response.
    forgets_cancelled_watches: bool = True
    # A key of any length is stored or the request is too large; else long ones may be refused.
    holds_long_keys: bool = True
    # RangeStream is served (etcd from 3.7); and a compaction does not end one.
    streams_ranges: bool = True
    streams_outlive_compaction: bool = True
    # The shortest lease, seconds: what a shorter TTL is raised to.
    min_ttl: int = 2


class Start(Protocol):
    """Starts a process on the data in `directory` (created if new) and returns once it serves.

    Called again with the same directory, while the first still runs, it starts a second instance on the same
    database; after the first has ended, it is a restart. `durable` syncs every write to disk where tests
    otherwise need not wait for that; `progress_interval` is in seconds, 0 for the server's default; `flags`
    are passed on. Raises `StartError` with the end of the log.
    """

    def __call__(
        self,
        directory: Path,
        *,
        durable: bool = False,
        progress_interval: float = 0,
        flags: tuple[str, ...] = (),
    ) -> Instance: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of server on one transport."""

    kind: str  # what --backend names: "etcd", "sqlite"
    transport: str  # what --transport names; "" where there is no choice
    capabilities: Capabilities
    missing: Callable[[], str]  # why it cannot run here, "" if it can
    start: Start
    subset: frozenset[str] = frozenset()  # the suite's files that run unless --backend names it; empty: all

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.transport}" if self.transport else self.kind


def backends() -> list[Backend]:
    """All kinds of server, whether they can run here or not."""
    found: list[Backend] = []
    for module in pkgutil.iter_modules(__path__):
        if module.name != "process":
            found += importlib.import_module(f"{__name__}.{module.name}").BACKENDS
    return found
