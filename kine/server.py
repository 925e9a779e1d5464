"""The server put together: a log, the store in front of it, the API's routes, a transport, and their end.

Starting goes from the database up, stopping from the clients down: new calls are refused, accepted ones
finish, watches end with a status that makes clients come again, and the database is closed last.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import zlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kine import drivers
from kine.etcd.routes import Identity, services
from kine.observe import metrics
from kine.observe.http import MetricsServer
from kine.observe.logging import fields
from kine.observe.rpc import observed
from kine.store.compactor import Policy
from kine.store.store import Observers, Store
from kine.store.store import Settings as StoreSettings

if TYPE_CHECKING:
    from kine.config import Settings
    from kine.etcd.watch import Session
    from kine.transport.base import Routes, Server
    from kine.transport.http2.server import Http1

log = logging.getLogger(__name__)

_GRACE = 1.5  # seconds for accepted calls to finish, of the two in which a stop must be over
# One number for all instances on all databases, as the id of a cluster; etcd's are hashes too.
_CLUSTER_ID = zlib.crc32(b"kine") << 32 | zlib.crc32(b"cluster")
# After loading, what lives stays: collections look at the young only, and seldom.
_GC_THRESHOLDS = (50_000, 50, 100)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises DriverError, ValueError or OSError if it cannot start."""
    async with AsyncExitStack() as stack:
        readiness = Readiness()
        reported = MetricsServer(
            settings.metrics_bind_address,
            readiness.reason,
            settings.metrics_tls(),
            enable_profiling=settings.metrics_enable_profiling,
        )
        stack.push_async_callback(reported.stop)
        await reported.start()

        driver = drivers.connect(settings.endpoint, settings.driver_options())
        stack.push_async_callback(driver.close)
        await driver.open()
        readiness.state = "loading the index"
        observers = Observers(metrics.write_batch_size.observe, metrics.compactions.inc)
        store = Store(driver, _store_settings(settings), observers)
        await store.open()
        stack.push_async_callback(store.close)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

        served = services(
            store, _identity(settings), settings.watch_progress_notify_interval, settings.max_request_bytes
        )
        # Clients' port answers HTTP/1.1 too, as etcd's does: `etcdctl check` reads /metrics there.
        transport = _transport(settings, observed(served.routes), reported.serve)
        addresses = await transport.start()
        stack.push_async_callback(transport.stop, _GRACE)
        ticking = asyncio.create_task(served.watch.run(), name="watch progress")
        stack.callback(ticking.cancel)
        stack.callback(served.stop)
        _observe(store, served.watch.sessions)
        readiness.store = store
        log.info("serving", extra=fields(address=addresses[0], revision=store.index.revision))
        await stop.wait()
        readiness.store, readiness.state = None, "stopping"
    log.info("stopped")


@dataclass(slots=True)
class Readiness:
    state: str = "connecting to the database"
    store: Store | None = None

    async def reason(self) -> str:
        """Why the server cannot answer a linearizable read now; nothing if it can."""
        if self.store is None:
            return self.state
        try:
            await self.store.refresh()
        except Exception as error:
            return str(error) or type(error).__name__
        return ""


def _store_settings(settings: Settings) -> StoreSettings:
    return StoreSettings(
        value_cache_bytes=settings.value_cache_bytes,
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


def _transport(settings: Settings, routes: Routes, http1: Http1) -> Server:
    addresses = [str(settings.listen_address)]
    if settings.transport == "grpcio":
        from kine.transport.grpc import GrpcServer

        return GrpcServer(routes, addresses, settings.tls(), settings.limits())
    from kine.transport.http2 import Http2Server

    return Http2Server(routes, addresses, settings.tls(), settings.limits(), http1)


def _observe(store: Store, sessions: set[Session]) -> None:
    index, hub, values = store.index, store.hub, store.values
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
    metrics.read("kine_write_queue", lambda: len(store.writer))

    async def allocated() -> float:
        return (await store.size()).allocated

    metrics.read("kine_db_size_bytes", allocated)
