"""The server put together: what it serves from, the API's routes, a transport, and their end.

It serves from a database, by a store in front of its log, or from an etcd that calls are passed on to.
Starting goes from the database up, stopping from the clients down: new calls are refused, accepted ones
finish, watches end with a status that makes clients come again, and the database is closed last.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import zlib
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kine import drivers
from kine.drivers.base import UNFINISHED, DriverError, OutOfRevisionsError, WaitsForDatabase
from kine.etcd import etcd_versions
from kine.etcd.routes import Bounds, Identity, Services, services
from kine.flag_values import scheme
from kine.observe import metrics, native_stderr
from kine.observe.grpc_metrics import observed
from kine.observe.logging import fields
from kine.observe.metrics_server import MetricsServer, NotReadyError
from kine.store.compactor import Policy
from kine.store.load_index import LoadProgress
from kine.store.store import Observers, Store
from kine.store.store import StoreSettings as StoreSettings
from kine.transport.byte_budget import SHARES
from kine.transport.http2 import Http2Server
from kine.workers.all_workers_status import AllWorkersStatus

if TYPE_CHECKING:
    from kine.address import Address
    from kine.config import Settings
    from kine.etcd.watch import WatchStream
    from kine.transport.base import Routes, Server
    from kine.workers.worker import Worker

log = logging.getLogger(__name__)

_UNFINISHED = (
    "this database holds only a part of the keys: kine snapshot restore or kine migrate into it was"
    " interrupted, or is still running; run the same command again, which goes on where it was, or take an"
    " empty database"
)
_GRACE = 1.5  # seconds for accepted calls to finish, of the two in which a stop must be over
_SETTING_UP = 15.0  # seconds for a new file to get its tables and first rows, whoever says stop
# One number for all instances on all databases, as the id of a cluster; etcd's are hashes too.
_CLUSTER_ID = zlib.crc32(b"kine") << 32 | zlib.crc32(b"cluster")
# After loading, what lives stays: collections look at the young only, and seldom.
_GC_THRESHOLDS = (50_000, 50, 100)
# A database's thread that comes back from its C library waits no longer for a busy event loop than this, in
# seconds; by default it is 5 ms, several times in each commit.
_SWITCH_INTERVAL = 0.0005


async def serve(settings: Settings, stop: asyncio.Event, worker: Worker | None = None) -> None:
    """Serves until `stop` is set; a worker what its parent passes on, others the addresses of the settings.

    Raises DriverError, ValueError or OSError if it cannot start.
    """
    async with AsyncExitStack() as stack:
        if settings.transport == "grpcio" or scheme(settings.endpoint) in drivers.REMOTE:
            stack.enter_context(native_stderr.logged())
        readiness = Readiness()
        shown = AllWorkersStatus(worker, readiness.reason) if worker is not None else None
        reported = MetricsServer(
            settings.metrics_bind_address if worker is None else None,
            shown.reason if shown else readiness.reason,
            settings.metrics_tls(),
            enable_profiling=settings.metrics_enable_profiling,
            exposition=shown.exposition if shown else metrics.exposition,
            version=readiness.version,
        )
        stack.push_async_callback(reported.stop)
        await reported.start()
        if worker is not None and shown is not None:
            worker.watch(stop)
            worker.up(reported.take, shown.tell)

        source = await open_backend(settings, stack, readiness, stop)
        if source is None:
            log.info("stopped before serving")
            return
        if isinstance(source, _Stored):
            _tune()
        # Clients' port answers plain HTTP too, as etcd's does: `etcdctl check` reads /metrics there.
        addresses = [settings.listen_address] if worker is None else []
        transport = _transport(settings, addresses, observed(source.routes), reported)
        budget = transport.budget
        metrics.register_gauge("kine_queued_bytes", lambda: budget.queued)
        metrics.register_gauge("kine_received_bytes", lambda: budget.received)
        metrics.register_gauge("kine_kept_bytes", lambda: budget.kept)
        metrics.register_gauge("kine_kept_refused_total", lambda: budget.refused)
        metrics.register_gauge("kine_requests_dropped_total", lambda: budget.shed)
        metrics.register_gauge("kine_slow_clients_closed_total", lambda: budget.closed_slow)
        metrics.register_gauge("kine_connections", lambda: transport.connected)
        metrics.register_gauge("kine_connections_turned_away_total", lambda: transport.turned_away)
        bound = await transport.start()
        stack.push_async_callback(transport.stop, _GRACE)
        stack.callback(source.stop)
        readiness.source = source
        if isinstance(transport, Http2Server) and worker is not None:
            transport.on_end = worker.ended
            worker.ready(transport.take)
            log.info("worker serving", extra=fields(**source.about()))
        else:
            log.info("serving", extra=fields(address=str(bound[0]), **source.about()))
            log.info("Kine available at %s", settings.client_url(bound[0]))
        await stop.wait()
        if worker is not None:
            worker.stopping()
        readiness.source, readiness.state = None, "stopping"
    log.info("stopped")


def _tune() -> None:
    """Once the index is loaded. Of the whole process, so for a server only, not for a command."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)


class Backend(Protocol):
    """What the server serves from, opened."""

    @property
    def routes(self) -> Routes: ...

    async def ready(self) -> None:
        """Raises, with the reason as text, when a linearizable read cannot be answered now."""

    def stop(self) -> None:
        """Ends the streams that would go on without end. What is under way is answered still."""

    def about(self) -> dict[str, object]:
        """What the log tells of it when serving begins."""

    async def version(self) -> bytes:
        """The JSON of /version. Raises DriverError."""


@dataclass(slots=True)
class Readiness:
    state: str = "connecting to the database"
    source: Backend | None = None
    loading: LoadProgress | None = None

    def waiting(self, why: str) -> None:
        self.state = why

    async def reason(self) -> str:
        """Why the server cannot answer a linearizable read now; nothing if it can."""
        if self.loading is not None and (reason := self.loading.reason):
            return reason
        if self.source is None:
            return self.state
        try:
            await self.source.ready()
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    async def version(self) -> bytes:
        """Raises NotReadyError."""
        if self.source is None:
            raise NotReadyError(self.state)
        try:
            return await self.source.version()
        except DriverError as error:
            raise NotReadyError(str(error)) from None


async def _reached(opening: Coroutine[None, None, None], stop: asyncio.Event, patience: float = 0.0) -> bool:
    """Waits for the database, which may take minutes; False if told to stop meanwhile.

    What has been begun then goes on for up to `patience` seconds.
    """
    opened = asyncio.ensure_future(opening)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((opened, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not opened.done() and patience:
            await asyncio.wait((opened,), timeout=patience)
        if not opened.done():
            return False
        opened.result()
        return True
    finally:
        opened.cancel()
        stopped.cancel()
        await asyncio.gather(opened, stopped, return_exceptions=True)


async def open_backend(
    settings: Settings,
    stack: AsyncExitStack,
    readiness: Readiness,
    stop: asyncio.Event,
    *,
    unfinished: bool = False,
) -> Backend | None:
    """What the endpoint names, opened; `stack` closes it. None if told to stop before it was there.

    Raises DriverError for a database that a restore was interrupted in, unless it may be `unfinished`.
    """
    if scheme(settings.endpoint) in drivers.REMOTE:
        from kine import remote  # here, so that a server on a database does not load a gRPC client

        readiness.state = "connecting to etcd"
        etcd = remote.connect(settings.endpoint, settings.driver_options())
        etcd.on_wait = readiness.waiting
        stack.push_async_callback(etcd.close)
        return etcd if await _reached(etcd.open(), stop) else None
    options = settings.driver_options()
    # Whoever sees a new file may end us and change it (vCluster's restore): it is whole by then.
    patience = _SETTING_UP if drivers.is_new(settings.endpoint, options) else 0.0
    driver = drivers.connect(settings.endpoint, options)
    if isinstance(driver, WaitsForDatabase):
        driver.on_wait = readiness.waiting
    stack.push_async_callback(driver.close)
    if not await _reached(driver.open(), stop, patience):
        return None
    if not unfinished and await driver.lease(UNFINISHED) is not None:
        raise DriverError(_UNFINISHED)
    observers = Observers(metrics.write_batch_size.observe, metrics.compactions.inc, readiness.waiting)
    store = Store(driver, _store_settings(settings), observers)
    readiness.state, readiness.loading = "loading the index", store.loading
    metrics.register_gauge("kine_loading_seconds", lambda: store.loading.seconds)
    if not await _reached(store.open(), stop, patience):
        return None
    stack.push_async_callback(store.close)
    if stop.is_set():
        return None
    bounds = Bounds(
        settings.max_request_bytes,
        settings.limits().max_queued_bytes // SHARES,
        settings.max_watches_per_connection,
    )
    served = services(store, _identity(settings), settings.watch_progress_notify_interval, bounds)
    _observe(store, served.watch.sessions)
    return _Stored(store, served, settings.emulated_etcd_version)


class _Stored:
    """A `Backend`: a database, with the store in front of it."""

    def __init__(self, store: Store, served: Services, version: str) -> None:
        self._store = store
        self._served = served
        self._ticking = asyncio.create_task(served.watch.run(), name="watch progress")
        self._version = version
        self.routes = served.routes

    async def ready(self) -> None:
        await self._store.refresh()
        if reason := self._store.exhausted:
            raise OutOfRevisionsError(reason)

    def stop(self) -> None:
        self._served.stop()
        self._ticking.cancel()

    def about(self) -> dict[str, object]:
        return {"revision": self._store.index.revision}

    async def version(self) -> bytes:
        return etcd_versions.page(
            self._version,
            etcd_versions.cluster_version(self._version),
            etcd_versions.storage_version(self._version),
        )


def _store_settings(settings: Settings) -> StoreSettings:
    return StoreSettings(
        value_cache_bytes=settings.value_cache_bytes // settings.workers,
        poll_batch_size=settings.poll_batch_size,
        compaction=Policy(
            interval=settings.compact_interval,
            jitter=settings.compact_interval_jitter,
            min_retain=settings.compact_min_retain,
            batch_size=settings.compact_batch_size,
        ),
        max_leases=settings.max_leases,
        patience=settings.patience,
        processes=settings.workers,
    )


def _identity(settings: Settings) -> Identity:
    host = socket.gethostname()
    socket_path = settings.listen_address.path
    return Identity(
        cluster_id=_CLUSTER_ID,
        member_id=zlib.crc32(host.encode()) << 32 | zlib.crc32(str(settings.listen_address).encode()) | 1,
        name="kine",
        version=settings.emulated_etcd_version,
        scheme=settings.client_scheme(),
        url=f"{settings.client_scheme()}://{Path(socket_path).absolute()}" if socket_path else "",
    )


def _transport(
    settings: Settings, addresses: Sequence[Address], routes: Routes, reported: MetricsServer
) -> Server:
    if settings.transport == "grpcio":
        from kine.transport.grpcio_server import GrpcServer

        return GrpcServer(routes, addresses, settings.tls(), settings.limits())
    return Http2Server(
        routes, addresses, settings.tls(), settings.limits(), reported.serve_client, reported.page
    )


def _observe(store: Store, sessions: set[WatchStream]) -> None:
    index, hub, values, lists = store.index, store.hub, store.values, store.lists
    metrics.register_gauge("kine_revision", lambda: index.revision)
    metrics.register_gauge("kine_compact_revision", lambda: index.compact_revision)
    metrics.register_gauge("kine_keys", lambda: len(index))
    metrics.register_gauge("kine_watchers", lambda: hub.watchers)
    metrics.register_gauge("kine_watch_streams", lambda: len(sessions))
    metrics.register_gauge("kine_watch_events_total", lambda: hub.sent)
    metrics.register_gauge("kine_slow_watchers", lambda: hub.slow)
    metrics.register_gauge("kine_value_cache_bytes", lambda: values.size)
    metrics.register_gauge("kine_value_cache_hits_total", lambda: values.hits)
    metrics.register_gauge("kine_value_cache_misses_total", lambda: values.misses)
    metrics.register_gauge("kine_list_cache_bytes", lambda: lists.size)
    metrics.register_gauge("kine_list_cache_hits_total", lambda: lists.hits)
    metrics.register_gauge("kine_list_cache_misses_total", lambda: lists.misses)
    metrics.register_gauge("kine_write_queue", lambda: len(store.writer))
    metrics.register_gauge("kine_leases", lambda: len(store.leases))

    async def allocated() -> float:
        return (await store.size()).allocated

    async def log_size() -> float:
        return (await store.size()).log

    metrics.register_gauge("kine_db_size_bytes", allocated)
    metrics.register_gauge("kine_wal_bytes", log_size)
