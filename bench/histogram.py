"""A log-bucketed histogram of latencies, after HdrHistogram (http://hdrhistogram.org).

Values are whole nanoseconds. Each power of two is divided into 128 buckets, so the error of a percentile is
at most 1/128 (0.8%) of its value over the whole range; minimum, maximum and mean are exact.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUB_BITS = 7
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class HistogramJson(TypedDict):
    """Counts by bucket in JSON types. Times in nanoseconds."""

    count: int
    total: int
    min: int
    max: int
    buckets: dict[str, int]


def bucket_of(value: int) -> int:
    """The bucket of a value of `value` nanoseconds (>= 0); ascending with the value."""
    shift = value.bit_length() - SUB_BITS - 1
    return value if shift <= 0 else (shift << SUB_BITS) + (value >> shift)


def bucket_top(bucket: int) -> int:
    """The highest value of the bucket."""
    if bucket < 2 << SUB_BITS:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return ((bucket - (shift << SUB_BITS) + 1) << shift) - 1


class Histogram:
    __slots__ = ("buckets", "count", "max", "min", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def record(self, seconds: Iterable[float]) -> None:
        """Counts each latency, in seconds; a negative one counts as 0."""
        buckets = self.buckets
        values = [int(s * 1e9) if s > 0 else 0 for s in seconds]
        if not values:
            return
        for value in values:
            shift = value.bit_length() - SUB_BITS - 1
            index = value if shift <= 0 else (shift << SUB_BITS) + (value >> shift)
            buckets[index] = buckets.get(index, 0) + 1
        low, high = min(values), max(values)
        self.min = low if self.count == 0 else min(self.min, low)
        self.max = max(self.max, high)
        self.count += len(values)
        self.total += sum(values)

    def add(self, other: Histogram) -> None:
        """Adds the counts of another histogram."""
        if other.count == 0:
            return
        for index, n in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + n
        self.min = other.min if self.count == 0 else min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.count += other.count
        self.total += other.total

    def percentile(self, percent: float) -> float:
        """Seconds that `percent` (0 to 100) of the values do not exceed; 0.0 when empty."""
        if self.count == 0:
            return 0.0
        rank = max(1, ceil(self.count * percent / 100.0))
        seen = 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= rank:
                return min(bucket_top(index), self.max) / 1e9
        return self.max / 1e9

    @property
    def mean(self) -> float:
        """Seconds; 0.0 when empty."""
        return self.total / self.count / 1e9 if self.count else 0.0

    def summary(self) -> dict[str, float]:
        """p50, p90, p99, p99.9, max and mean, in seconds."""
        figures = {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        return figures | {"max": self.max / 1e9, "mean": self.mean}

    def to_json(self) -> HistogramJson:
        return {
            "count": self.count,
            "total": self.total,
            "min": self.min,
            "max": self.max,
            "buckets": {str(index): self.buckets[index] for index in sorted(self.buckets)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object] | HistogramJson) -> Histogram:
        """The histogram that `to_json` encoded."""
        made = cls()
        fields: HistogramJson = data  # type: ignore[assignment]
        made.count, made.total = fields["count"], fields["total"]
        made.min, made.max = fields["min"], fields["max"]
        made.buckets = {int(index): n for index, n in fields["buckets"].items()}
        return made
