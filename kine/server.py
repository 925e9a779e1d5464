"""Assembly of the server: backend, API routes and transport, and their start and stop.

The backend is a database, with a store in front of its log, or an etcd server to which calls are forwarded.
Starting goes from the database to the clients, stopping the other way: new calls are refused, accepted ones
finish, watches end with a status that makes clients reconnect, and the database is closed last.
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
_GRACE = 1.5  # seconds for accepted calls to finish, of the two that a stop may take
_SETTING_UP = 15.0  # seconds for a new file to get its tables and first rows, even during a stop
# The cluster id, the same for all instances on all databases; etcd's are hashes too.
_CLUSTER_ID = zlib.crc32(b"kine") << 32 | zlib.crc32(b"cluster")
# Objects that exist after loading live long: collect only young ones, and rarely.
_GC_THRESHOLDS = (50_000, 50, 100)
# Seconds after which a busy event loop yields the GIL to a database thread that returns from its C library.
# The default is 5 ms, which a commit would wait for several times.
_SWITCH_INTERVAL = 0.0005


async def serve(settings: Settings, stop: asyncio.Event, worker: Worker | None = None) -> None:
    """Serves until `stop` is set: on the settings' addresses or, as a worker, its parent's connections.

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
        # The clients' port serves plain HTTP too, as etcd's does: `etcdctl check` reads /metrics there.
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
    """Tunes the garbage collector and GIL once the index is loaded: process-wide, so not for commands."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)


class Backend(Protocol):
    """An open backend: a database with its store, or an etcd server."""

    @property
    def routes(self) -> Routes: ...

    async def ready(self) -> None:
        """Raises, with the reason as text, if a linearizable read cannot be served now."""

    def stop(self) -> None:
        """Ends the streams that have no end of their own. Calls in progress still finish."""

    def about(self) -> dict[str, object]:
        """Fields for the log line when serving starts."""

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
        """Why the server cannot serve a linearizable read now; empty if it can."""
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
        """The JSON of /version. Raises NotReadyError."""
        if self.source is None:
            raise NotReadyError(self.state)
        try:
            return await self.source.version()
        except DriverError as error:
            raise NotReadyError(str(error)) from None


async def _reached(opening: Coroutine[None, None, None], stop: asyncio.Event, patience: float = 0.0) -> bool:
    """Waits for `opening`, which may take minutes; False if `stop` is set first.

    After `stop`, `opening` goes on for up to `patience` seconds.
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
    """Opens the endpoint's backend, which `stack` closes. Returns None if `stop` is set before it is open.

    Raises DriverError for a database in which a restore was interrupted, unless it may be `unfinished`.
    """
    if scheme(settings.endpoint) in drivers.REMOTE:
        from kine import remote  # here, so that a server on a database does not load a gRPC client

        readiness.state = "connecting to etcd"
        etcd = remote.connect(settings.endpoint, settings.driver_options())
        etcd.on_wait = readiness.waiting
        stack.push_async_callback(etcd.close)
        return etcd if await _reached(etcd.open(), stop) else None
    options = settings.driver_options()
    # A tool may stop this server as soon as it sees a new file, and change the file (vCluster's restore): so
    # setup completes first.
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
    """A `Backend` on a database, with a store in front of it."""

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
