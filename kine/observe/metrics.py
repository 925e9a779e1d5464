"""Prometheus metrics: names, counters, histograms and gauges.

Counts are kept in plain integers and lists, and are converted to metrics at a scrape: an increment costs a
tenth of a labelled counter's (bench: tests/unit/test_metrics.py says how it was measured). Figures that other
modules keep anyway, such as the current revision, are not pushed: a module calls
`register_gauge("kine_revision", lambda: …)` once at start, and the function is called at each scrape.

Names and labels of the counters are Go kine's where it has them; those of gRPC calls are
go-grpc-prometheus's (see `kine.observe.grpc_metrics`).
"""

from __future__ import annotations

import asyncio
import inspect
from bisect import bisect_left
from threading import Lock
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from kine.version import version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

SQL_BUCKETS = tuple(0.001 * 2**n for n in range(14))  # 1 ms to 8.192 s, as etcd's backend latencies
BATCH_BUCKETS = tuple(float(2**n) for n in range(11))  # 1 to 1024 writes

# Gauges and counters read from a function at each scrape. Name: type, help.
READINGS: dict[str, tuple[Literal["gauge", "counter"], str]] = {
    "kine_revision": ("gauge", "Current revision of the store"),
    "kine_compact_revision": ("gauge", "Revision up to which history has been compacted"),
    "kine_keys": ("gauge", "Keys that exist at the current revision"),
    "kine_watchers": ("gauge", "Open watches"),
    "kine_watch_streams": ("gauge", "Open Watch calls, each carrying any number of watches"),
    "kine_watch_events_total": ("counter", "Events sent to watchers"),
    "kine_slow_watchers": ("gauge", "Watches that are behind and catching up from the log"),
    "kine_value_cache_bytes": ("gauge", "Memory held by cached values"),
    "kine_value_cache_hits_total": ("counter", "Values found in the cache"),
    "kine_value_cache_misses_total": ("counter", "Values that had to be read from the database"),
    "kine_list_cache_bytes": ("gauge", "Memory held by long lists asked for more than once"),
    "kine_list_cache_hits_total": ("counter", "Long lists answered from what was kept of them"),
    "kine_list_cache_misses_total": ("counter", "Long lists put together from their values"),
    "kine_loading_seconds": ("gauge", "Seconds for which the index is being loaded, 0 when it is not"),
    "kine_write_queue": ("gauge", "Writes waiting for a transaction"),
    "kine_connections": ("gauge", "Clients' connections that are open, or shaking hands"),
    "kine_connections_turned_away_total": (
        "counter",
        "Connections refused, or closed to make room, as --max-connections were open",
    ),
    "kine_queued_bytes": ("gauge", "Memory held by answers that clients have yet to take"),
    "kine_received_bytes": ("gauge", "Memory held by requests that are half sent, or being answered"),
    "kine_requests_dropped_total": (
        "counter",
        "Half sent requests dropped, as too many were held",
    ),
    "kine_kept_bytes": ("gauge", "Memory held for open streams, their messages and watches"),
    "kine_kept_refused_total": (
        "counter",
        "Streams, messages and watches refused, as there was no memory to keep them",
    ),
    "kine_slow_clients_closed_total": ("counter", "Connections closed as their clients took no answers"),
    "kine_leases": ("gauge", "Leases that are granted, as far as this server knows"),
    "kine_db_size_bytes": ("gauge", "Size of the database, as Status tells it"),
    "kine_wal_bytes": ("gauge", "SQLite's write-ahead log, part of kine_db_size_bytes"),
    "kine_identity_expiry_seconds": (
        "gauge",
        "Seconds until the AWS credentials or Kerberos tickets for new connections expire",
    ),
}
READING_TIMEOUT = 2.0  # seconds; after that a scrape shows the last known figure


class Histogram:
    """Counts of observations by bucket. Not thread-safe: the caller locks if there are several threads."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as in the exposition format."""
        shown, below = [], 0
        for bound, count in zip((*self.bounds, float("inf")), tuple(self.counts), strict=True):
            below += count
            shown.append(("+Inf" if bound == float("inf") else repr(bound), float(below)))
        return shown


class Counts:
    """A counter with one label. All label values start at zero, so that rate() sees the first increment."""

    def __init__(self, name: str, about: str, label: str, *values: str) -> None:
        self.name, self.about, self.label = name, about, label
        self.lock = Lock()
        self.counts = dict.fromkeys(values, 0)

    def inc(self, value: str) -> None:
        """Counts one, from any thread. Raises KeyError for an unknown label value."""
        with self.lock:
            self.counts[value] += 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self.about, labels=[self.label])
        for value, count in self.counts.items():
            family.add_metric([value], count)
        yield family


class _Sql:
    """Times of SQL statements by name and error code. Drivers report from their own threads."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.times: dict[tuple[str, str], Histogram] = {}

    def observe(self, name: str, error_code: str, seconds: float) -> None:
        with self.lock:
            times = self.times.get((name, error_code))
            if times is None:
                times = self.times[name, error_code] = Histogram(SQL_BUCKETS)
            times.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        labels = ["name", "error_code"]
        total = CounterMetricFamily("kine_sql_total", "Total number of SQL operations", labels=labels)
        times = HistogramMetricFamily(
            "kine_sql_time_seconds", "Length of time per SQL operation", labels=labels
        )
        with self.lock:
            for key, histogram in self.times.items():
                total.add_metric(key, histogram.count)
                times.add_metric(key, histogram.buckets(), histogram.total)
        yield total
        yield times


class _WriteBatches:
    def __init__(self, histogram: Histogram) -> None:
        self.histogram = histogram

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("kine_write_batch_size", "Writes that shared one transaction")
        family.add_metric([], self.histogram.buckets(), self.histogram.total)
        yield family


class _Readings:
    """The figures of registered functions, as of the last `refresh`."""

    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], float | Awaitable[float]]] = {}
        self.values: dict[str, float] = {}

    async def refresh(self) -> None:
        for name, source in list(self.sources.items()):
            try:
                value = source()
                if inspect.isawaitable(value):
                    async with asyncio.timeout(READING_TIMEOUT):
                        value = await value
                self.values[name] = value
            except Exception:  # noqa: S112 - a database that is away must not take the other figures with it
                continue

    def collect(self) -> Iterator[Metric]:
        for name, value in self.values.items():
            kind, about = READINGS[name]
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(name, about, value=value)


class _BuildInfo:
    """A gauge that is always 1, with the version as a label."""

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("kine_build_info", "The release that runs here", labels=["version"])
        family.add_metric([version()], 1)
        yield family


registry = CollectorRegistry(auto_describe=False)
_sql = _Sql()
_readings = _Readings()
write_batch_size = Histogram(BATCH_BUCKETS)

compactions = Counts("kine_compact_total", "Total number of compactions", "result", "success", "error")
insert_errors = Counts(
    "kine_insert_errors_total",
    "Total number of insert retries due to unique constraint violations",
    "retriable",
    "true",
    "false",
)
gap_fills = Counts(
    "kine_gap_fill_total",
    "Total number of watch poll sequence-gap fill outcomes by result",
    "result",
    "filled",
    "failed",
    "skipped",
)

for _counts in (compactions, insert_errors, gap_fills):
    registry.register(_counts)
registry.register(_sql)
registry.register(_readings)
registry.register(_BuildInfo())
registry.register(_WriteBatches(write_batch_size))
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)
GCCollector(registry=registry)

observe_sql = _sql.observe
"""`observe_sql(name, error_code, seconds)`: one statement ran; the code is empty for success."""


def register_gauge(name: str, source: Callable[[], float | Awaitable[float]]) -> None:
    """Calls `source` for this metric at each scrape. Raises KeyError for a name not in `READINGS`."""
    _ = READINGS[name]
    _readings.sources[name] = source


refresh = _readings.refresh
"""Asks every reading's source; the registry shows them as of then."""


async def exposition(accept: str = "") -> tuple[bytes, str]:
    """All metrics in the format that an `Accept` header asks for, and its content type."""
    await _readings.refresh()
    encode, content_type = choose_encoder(accept)
    # Takes some 10 ms with all of etcd's methods: too long for the event loop.
    return await asyncio.to_thread(encode, registry), content_type
