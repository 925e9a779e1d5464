"""Verdict on a soak: limits for growth, slowdown and lost events, checked on its samples.

The warm-up is not judged. Memory and the database rise and fall with every compaction, so their trend is
that of the medians of whole compaction periods, by Theil and Sen's slope, which single outliers do not move.

A cache that fills is no leak, and a leak must not hide in one. So the size that the server reports for its
caches is subtracted from its memory, and judged separately. The database is judged by the last half: its file
does not shrink, and grows until it has once held the most history that there is between compactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.soak.event_counts import Delivery

Sample = dict[str, Any]
MIB = 1 << 20
LEAK = MIB / 60  # growth of memory in bytes a second that counts as a leak
GROWTH = 0.05  # share of the caches' size, over the time judged
GROWTH_BYTES = 16 * MIB  # always allowed
HISTORY_GROWTH = 0.10  # share of the number of revisions kept
HISTORY_REVISIONS = 5_000  # always allowed
DATABASE_GROWTH = 0.10
CACHES = ("value_cache", "list_cache")  # sizes in bytes, from the server's metrics
DESCRIPTORS = 8  # allowed variation, of threads as well
SLOWER = {"p50": (1.25, 0.001), "p99": (1.5, 0.010)}  # last quarter against first: factor, and seconds
BUSY = 0.9  # share of a core: a driver process above it measures itself
PERIODS = 4  # minimum for a trend of their medians
FEW = 20  # samples; below this number the median is used instead of the mean


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    good: bool
    text: str


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's slope: the median of the slopes between all pairs of points."""
    found = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    return median(found) if found else 0.0


def periods(samples: Sequence[Sample], period: float) -> int:
    """The number of compaction periods in the samples; 0 if they are too few for a trend."""
    whole = int((samples[-1]["seconds"] - samples[0]["seconds"]) / period + 0.1) if period else 0
    return whole if whole >= PERIODS else 0


def by_period(samples: Sequence[Sample], name: str, period: float) -> list[tuple[float, float]]:
    """The medians of a figure over whole periods, at their middles; the samples themselves if few."""
    plain = [(sample["seconds"], float(sample[name])) for sample in samples]
    whole = periods(samples, period)
    if not whole:
        return plain if len(plain) <= 400 else plain[:: len(plain) // 400]
    medians = []
    for number in range(whole):
        begin = plain[0][0] + number * period
        inside = [value for at, value in plain if begin <= at < begin + period]
        if inside:
            medians.append((begin + period / 2, median(inside)))
    return medians


def grown(samples: Sequence[Sample], name: str, period: float) -> tuple[float, float, float, str]:
    """The growth of a figure over the time judged, its median, the seconds, and the basis of the trend."""
    points = by_period(samples, name, period)
    span = samples[-1]["seconds"] - samples[0]["seconds"]
    kind = "periods" if len(points) < len(samples) else "samples"
    return slope(points) * span, median(value for _, value in points), span, f"{len(points)} {kind}"


def no_leak(samples: Sequence[Sample], period: float) -> Check:
    """Whether memory without the caches stays level; all of it if the server does not report its caches."""
    told = all(name in sample for sample in samples for name in CACHES)
    beside = [
        sample | {"beside": sample["rss"] - (sum(sample[name] for name in CACHES) if told else 0)}
        for sample in samples
    ]
    more, middle, span, points = grown(beside, "beside", period)
    allowed = max(GROWTH_BYTES, LEAK * span)
    minutes = max(1.0, span) / 60
    rss = median(sample["rss"] for sample in samples)
    text = f"{rss / MIB:,.0f} MiB" + (f", {middle / MIB:,.0f} beside the caches" if told else "")
    text += (
        f": {more / minutes / MIB:+,.2f} MiB a minute over {points} "
        f"(a leak from {allowed / minutes / MIB:,.2f} on)"
    )
    return Check("memory flat", more <= allowed, text)


def flat(
    samples: Sequence[Sample],
    name: str,
    what: str,
    period: float,
    allowed: float,
    always: float = GROWTH_BYTES,
    unit: float = MIB,
    unit_name: str = "MiB",
) -> Check:
    """Whether a figure grows by no more than a share of itself, or `always`, over the time judged."""
    if not samples:
        return Check(what, good=False, text="no samples")
    more, middle, span, points = grown(samples, name, period)
    text = (
        f"{middle / unit:,.0f} {unit_name}, {more / unit:+,.1f} over {points} of {span / 60:,.1f} minutes"
        f" ({more / middle if middle else 0:+.1%})"
    )
    return Check(what, more <= max(always, allowed * middle), text)


def steady(samples: Sequence[Sample], name: str, what: str, period: float) -> Check:
    """Whether the last quarter equals the first, apart from the allowed variation."""
    first, last = _quarters(samples, name, period)
    values = [sample[name] for sample in samples]
    text = f"{first:.1f} in the first quarter, {last:.1f} in the last, {min(values)} to {max(values)}"
    return Check(what, abs(last - first) <= DESCRIPTORS, text)


def no_slower(samples: Sequence[Sample], name: str, what: str, period: float) -> Check:
    """Whether p50 and p99 of the last quarter are near those of the first."""
    good, parts = True, []
    for figure, (factor, more) in SLOWER.items():
        first, last = _quarters(samples, f"{name}_{figure}", period)
        good &= last <= max(first * factor, first + more)
        parts.append(f"{figure} {first * 1e3:.2f} -> {last * 1e3:.2f} ms")
    return Check(what, good, ", ".join(parts))


def _told(samples: Sequence[Sample], period: float) -> list[Check]:
    """Checks on a kine server's own metrics; none for another server, or with too few compaction periods."""
    names = (*CACHES, "revision", "compact_revision")
    if not periods(samples, period) or not all(name in sample for sample in samples for name in names):
        return []
    more = [
        sample
        | {
            "caches": sum(sample[name] for name in CACHES),
            "history": sample["revision"] - sample["compact_revision"],
        }
        for sample in samples
    ]
    return [
        flat(more, "caches", "caches bounded", period, GROWTH),
        flat(more, "history", "history bounded", period, HISTORY_GROWTH, HISTORY_REVISIONS, 1.0, "revisions"),
    ]


def _quarters(samples: Sequence[Sample], name: str, period: float) -> tuple[float, float]:
    """The mean of the first quarter's samples and of the last's, without the highest and lowest tenth.

    The quarters are whole compaction periods, because a compaction slows calls down and both quarters need
    the same share of it. If there are few samples, it is their median.
    """
    found = [float(sample[name]) for sample in samples]
    if whole := periods(samples, period):
        times = [sample["seconds"] - samples[0]["seconds"] for sample in samples]
        part = whole // 4 * period
        first = [value for at, value in zip(times, found, strict=True) if at < part]
        last = [
            value
            for at, value in zip(times, found, strict=True)
            if whole * period - part <= at < whole * period
        ]
        return _middle(first), _middle(last)
    quarter = max(1, len(samples) // 4)
    return _middle(found[:quarter]), _middle(found[-quarter:])


def _middle(found: list[float]) -> float:
    if len(found) < FEW:
        return median(found)
    aside = len(found) // 10
    return fmean(sorted(found)[aside : len(found) - aside])


def judge(
    samples: Sequence[Sample],
    delivery: Delivery,
    errors: dict[str, int],
    *,
    warm_up: float,
    period: float,
    unstarted: int,
) -> list[Check]:
    """All checks; a soak without a sample after its warm-up fails."""
    judged = [sample for sample in samples if sample["seconds"] > warm_up]
    if not judged:
        return [Check("samples", good=False, text="none after the warm-up")]
    count = sum(errors.values())
    worst = "; ".join(f"{n} x {error}" for error, n in sorted(errors.items())[:5])
    missing = "; ".join(delivery.wrong[:3])
    half = [sample for sample in judged if sample["seconds"] > samples[-1]["seconds"] / 2]
    busiest = max(median(sample[name] for sample in judged) for name in ("calls_cpu", "follow_cpu"))
    return [
        no_leak(judged, period),
        *_told(judged, period),
        steady(judged, "fds", "file descriptors flat", period),
        steady(judged, "threads", "threads flat", period),
        no_slower(judged, "read", "reads no slower", period),
        no_slower(judged, "list", "lists no slower", period),
        no_slower(judged, "write", "writes no slower", period),
        no_slower(judged, "lag", "watches no later", period),
        flat(half, "db_in_use", "database in use bounded", period, DATABASE_GROWTH),
        flat(half, "db_size", "database file bounded", period, DATABASE_GROWTH),
        Check("no error", not count, worst or "0 errors"),
        Check("no call left over", not unstarted, f"{unstarted} calls that were due were never made"),
        Check(
            "every event delivered",
            not delivery.wrong_watches,
            f"{delivery.events:,} of {delivery.expected:,} events" + (f"; {missing}" if missing else ""),
        ),
        Check("driver has room", busiest < BUSY, f"its busier process uses {busiest:.2f} of a core"),
    ]
