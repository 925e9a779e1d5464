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
from typing import TYPE_CHECKING, Protocol

from kine import drivers
from kine.etcd.routes import Identity, Services, services
from kine.forms import scheme
from kine.observe import metrics
from kine.observe.http import MetricsServer
from kine.observe.logging import fields
from kine.observe.rpc import observed
from kine.store.compactor import Policy
from kine.store.store import Observers, Store
from kine.store.store import Settings as StoreSettings
from kine.transport.http2 import Http2Server
from kine.workers.shown import Shown

if TYPE_CHECKING:
    from kine.config import Settings
    from kine.etcd.watch import Session
    from kine.transport.base import Routes, Server
    from kine.transport.http2.opening import Http1
    from kine.workers.worker import Worker

log = logging.getLogger(__name__)

_GRACE = 1.5  # seconds for accepted calls to finish, of the two in which a stop must be over
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
        readiness = Readiness()
        shown = Shown(worker, readiness.reason) if worker is not None else None
        reported = MetricsServer(
            settings.metrics_bind_address if worker is None else None,
            shown.reason if shown else readiness.reason,
            settings.metrics_tls(),
            enable_profiling=settings.metrics_enable_profiling,
            exposition=shown.exposition if shown else metrics.exposition,
        )
        stack.push_async_callback(reported.stop)
        await reported.start()
        if worker is not None and shown is not None:
            worker.watch(stop)
            worker.up(reported.take, shown.tell)

        source = await open_source(settings, stack, readiness, stop)
        if source is None:
            log.info("stopped before the database was there")
            return
        # Clients' port answers HTTP/1.1 too, as etcd's does: `etcdctl check` reads /metrics there.
        addresses = [str(settings.listen_address)] if worker is None else []
        transport = _transport(settings, addresses, observed(source.routes), reported.serve)
        bound = await transport.start()
        stack.push_async_callback(transport.stop, _GRACE)
        stack.callback(source.stop)
        readiness.source = source
        if isinstance(transport, Http2Server) and worker is not None:
            transport.on_end = worker.ended
            worker.ready(transport.take)
            log.info("worker serving", extra=fields(**source.about()))
        else:
            log.info("serving", extra=fields(address=bound[0], **source.about()))
        await stop.wait()
        if worker is not None:
            worker.stopping()
        readiness.source, readiness.state = None, "stopping"
    log.info("stopped")


class Source(Protocol):
    """What the server serves from, opened."""

    @property
    def routes(self) -> Routes: ...

    async def ready(self) -> None:
        """Raises, with the reason as text, when a linearizable read cannot be answered now."""

    def stop(self) -> None:
        """Ends the streams that would go on without end. What is under way is answered still."""

    def about(self) -> dict[str, object]:
        """What the log tells of it when serving begins."""


@dataclass(slots=True)
class Readiness:
    state: str = "connecting to the database"
    source: Source | None = None

    async def reason(self) -> str:
        """Why the server cannot answer a linearizable read now; nothing if it can."""
        if self.source is None:
            return self.state
        try:
            await self.source.ready()
        except Exception as error:
            return str(error) or type(error).__name__
        return ""


async def _reached(opening: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Waits for the database, which may take minutes; False if told to stop meanwhile."""
    opened = asyncio.ensure_future(opening)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((opened, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            return False
        opened.result()
        return True
    finally:
        opened.cancel()
        stopped.cancel()
        await asyncio.gather(opened, stopped, return_exceptions=True)


async def open_source(
    settings: Settings, stack: AsyncExitStack, readiness: Readiness, stop: asyncio.Event
) -> Source | None:
    """What the endpoint names, opened; `stack` closes it. None if told to stop before it was there."""
    if scheme(settings.endpoint) in drivers.REMOTE:
        from kine import remote  # here, so that a server on a database does not load a gRPC client

        readiness.state = "connecting to etcd"
        etcd = remote.connect(settings.endpoint, settings.driver_options())
        stack.push_async_callback(etcd.close)
        return etcd if await _reached(etcd.open(), stop) else None
    driver = drivers.connect(settings.endpoint, settings.driver_options())
    stack.push_async_callback(driver.close)
    if not await _reached(driver.open(), stop):
        return None
    readiness.state = "loading the index"
    observers = Observers(metrics.write_batch_size.observe, metrics.compactions.inc)
    store = Store(driver, _store_settings(settings), observers)
    if not await _reached(store.open(), stop):
        return None
    stack.push_async_callback(store.close)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    served = services(
        store, _identity(settings), settings.watch_progress_notify_interval, settings.max_request_bytes
    )
    _observe(store, served.watch.sessions)
    return _Stored(store, served)


class _Stored:
    """A `Source`: a database, with the store in front of it."""

    def __init__(self, store: Store, served: Services) -> None:
        self._store = store
        self._served = served
        self._ticking = asyncio.create_task(served.watch.run(), name="watch progress")
        self.routes = served.routes

    async def ready(self) -> None:
        await self._store.refresh()

    def stop(self) -> None:
        self._served.stop()
        self._ticking.cancel()

    def about(self) -> dict[str, object]:
        return {"revision": self._store.index.revision}


def _store_settings(settings: Settings) -> StoreSettings:
    return StoreSettings(
        value_cache_bytes=settings.value_cache_bytes // settings.workers,
        poll_batch_size=settings.poll_batch_size,
        compaction=Policy(
            interval=max(0.0, settings.compact_interval),
            jitter=settings.compact_interval_jitter,
            min_retain=settings.compact_min_retain,
            batch_size=settings.compact_batch_size,
        ),
    )


def _identity(settings: Settings) -> Identity:
    tls = settings.tls() is not None
    unix = str(settings.listen_address).startswith("unix")
    host = socket.gethostname()
    return Identity(
        cluster_id=_CLUSTER_ID,
        member_id=zlib.crc32(host.encode()) << 32 | zlib.crc32(str(settings.listen_address).encode()) | 1,
        name="kine",
        version=settings.emulated_etcd_version,
        scheme=("unix" if unix else "http") + ("s" if tls else ""),
    )


def _transport(settings: Settings, addresses: Sequence[str], routes: Routes, http1: Http1) -> Server:
    if settings.transport == "grpcio":
        from kine.transport.grpc import GrpcServer

        return GrpcServer(routes, addresses, settings.tls(), settings.limits())
    return Http2Server(routes, addresses, settings.tls(), settings.limits(), http1)


def _observe(store: Store, sessions: set[Session]) -> None:
    index, hub, values, lists = store.index, store.hub, store.values, store.lists
    metrics.read("kine_revision", lambda: index.revision)
    metrics.read("kine_compact_revision", lambda: index.compact_revision)
    metrics.read("kine_keys", lambda: len(index))
    metrics.read("kine_watchers", lambda: hub.watchers)
    metrics.read("kine_watch_streams", lambda: len(sessions))
    metrics.read("kine_watch_events_total", lambda: hub.sent)
    metrics.read("kine_slow_watchers", lambda: hub.slow)
    metrics.read("kine_value_cache_bytes", lambda: values.size)
    metrics.read("kine_value_cache_hits_total", lambda: values.hits)
    metrics.read("kine_value_cache_misses_total", lambda: values.misses)
    metrics.read("kine_list_cache_bytes", lambda: lists.size)
    metrics.read("kine_list_cache_hits_total", lambda: lists.hits)
    metrics.read("kine_list_cache_misses_total", lambda: lists.misses)
    metrics.read("kine_write_queue", lambda: len(store.writer))

    async def allocated() -> float:
        return (await store.size()).allocated

    metrics.read("kine_db_size_bytes", allocated)
