"""Watch lag and event delivery, computed from the notes of writers and followers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.worker_messages import TaskOutcome


@dataclass(frozen=True, slots=True)
class Lag:
    """Watch lag. Latencies are of the events of writes in the measured time, delivery is of all writes."""

    from_sending: Histogram
    from_answer: Histogram  # 0 where the event came before the write's answer
    to_last_watcher: Histogram  # from sending until the last watcher received it
    writes: int
    events: int  # that arrived, of acknowledged writes
    expected: int
    unacknowledged: int  # events of writes whose answer was lost, or of other writers

    @property
    def delivered(self) -> float:
        return self.events / self.expected if self.expected else 1.0


def measure(outcomes: Sequence[TaskOutcome], begin: float, finish: float) -> Lag:
    """Joins events and writes by revision."""
    written = np.concatenate([np.frombuffer(o.written, dtype=np.int64) for o in outcomes])
    sent = np.concatenate([np.frombuffer(o.sent, dtype=np.float64) for o in outcomes])
    acked = np.concatenate([np.frombuffer(o.acked, dtype=np.float64) for o in outcomes])
    seen = np.concatenate([np.frombuffer(o.seen, dtype=np.int64) for o in outcomes])
    arrived = np.concatenate([np.frombuffer(o.arrived, dtype=np.float64) for o in outcomes])
    watches = sum(o.watches for o in outcomes)
    order = np.argsort(written)
    written, sent, acked = written[order], sent[order], acked[order]
    if len(written) == 0 or len(seen) == 0:
        expected = len(written) * watches
        return Lag(Histogram(), Histogram(), Histogram(), len(written), 0, expected, len(seen))
    place = np.minimum(np.searchsorted(written, seen), len(written) - 1)
    ours = written[place] == seen
    place, arrived = place[ours], arrived[ours]
    inside = (sent >= begin) & (sent < finish)
    counted = inside[place]
    lags = (arrived - sent[place])[counted]
    after = (arrived - acked[place])[counted]
    last = np.full(len(written), -np.inf)
    np.maximum.at(last, place, arrived)
    whole = inside & (np.bincount(place, minlength=len(written)) == watches)
    return Lag(
        _histogram(lags),
        _histogram(after),
        _histogram((last - sent)[whole]),
        len(written),
        int(ours.sum()),
        len(written) * watches,
        int(np.count_nonzero(~ours & (seen > written[0]))),  # earlier events belong to the set-up
    )


def _histogram(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Histogram:
    made = Histogram()
    made.record(seconds.tolist())
    return made
