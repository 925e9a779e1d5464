"""Merges the metrics of all workers into one page: counters are added up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from kine.observe import metrics

# The same for all workers, though some see a change later: the highest value is used.
_SHARED = {
    "kine_build_info",
    "kine_revision",
    "kine_compact_revision",
    "kine_keys",
    "kine_db_size_bytes",
    "kine_wal_bytes",
    "kine_loading_seconds",
}
# The lowest value is used, as it is the worst.
_LEAST = {"kine_identity_expiry_seconds"}
# Metrics of a process: shown for each worker, with its number as a label.
_OWN = ("process_", "python_")

Families = list[list[Any]]
"""As JSON has them: name, help, type, and samples of name, labels and value."""


async def collected() -> Families:
    """This process's own metrics."""
    await metrics.refresh()
    return await asyncio.to_thread(_families, metrics.registry.collect)


def _families(collect: Any) -> Families:
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[s.name, s.labels, s.value] for s in family.samples],
        ]
        for family in collect()
    ]


async def exposition(pages: Sequence[tuple[int, Families]], ready: int, accept: str) -> tuple[bytes, str]:
    """One page of these workers' metrics, and its content type; `ready` is the number of ready workers."""

    def encoded() -> tuple[bytes, str]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(merged(pages, ready)))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return await asyncio.to_thread(encoded)


class _Merged:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merged(pages: Sequence[tuple[int, Families]], ready: int) -> list[Metric]:
    """Adds up counters, histograms and sizes, takes shared values once, and labels those of a process."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for number, page in pages:
        for name, about, kind, samples in page:
            families.setdefault(name, Metric(name, about, kind))
            found = values.setdefault(name, {})
            for sample, labels, value in samples:
                more = {"worker": str(number)} if name.startswith(_OWN) else {}
                key: tuple[str, tuple[tuple[str, str], ...]] = sample, tuple({**labels, **more}.items())
                before = found.get(key)
                if before is None:
                    found[key] = value
                elif name in _LEAST:
                    found[key] = min(before, value)
                else:
                    found[key] = max(before, value) if name in _SHARED else before + value
    for name, found in values.items():
        for (sample, pairs), value in found.items():
            families[name].add_sample(sample, dict(pairs), value)
    workers = GaugeMetricFamily("kine_workers", "Worker processes that answer clients", value=ready)
    return [*families.values(), workers]
