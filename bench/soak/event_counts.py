"""Counts of written and received events, with which each watch is checked without storing events.

A watch has received exactly the events in its scope if its revisions are increasing and three figures equal
those of the writes: the number of its puts, the sum of their revisions, and the number of its deletes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.soak.soak_settings import EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.soak.soak_settings import SoakSettings, Watch


def zeros(length: int) -> array[int]:
    return array("q", bytes(8 * length))


@dataclass(slots=True)
class Written:
    """Acknowledged writes by group, and by key for the objects that stay (only puts)."""

    puts: array[int]
    sums: array[int]
    deletes: array[int]
    key_puts: array[int]
    key_sums: array[int]
    unsure: int = 0  # writes without an answer

    @classmethod
    def empty(cls, settings: SoakSettings) -> Written:
        groups, keys = settings.groups, settings.keys
        return cls(zeros(groups), zeros(groups), zeros(groups), zeros(keys), zeros(keys))


@dataclass(slots=True)
class Arrived:
    """Events by watch, in the order of the plan."""

    puts: array[int]
    sums: array[int]
    deletes: array[int]
    newest: array[int]  # revision
    errors: dict[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, watches: int) -> Arrived:
        return cls(zeros(watches), zeros(watches), zeros(watches), zeros(watches))


@dataclass(frozen=True, slots=True)
class Delivery:
    """The totals of all watches, and the worst errors in words."""

    expected: int
    events: int
    wrong_watches: int
    wrong: list[str]


class Expected:
    """The counts that a watch should have, from the writes; every lease has ended by then."""

    def __init__(self, settings: SoakSettings, written: Written) -> None:
        self._written = written
        spans = settings.namespaces
        puts, sums, deletes = list(written.puts), list(written.sums), list(written.deletes)
        first = EVENTS * spans
        deletes[first:] = [n + m for n, m in zip(deletes[first:], puts[first:], strict=True)]
        self._groups = list(zip(puts, sums, deletes, strict=True))
        self._resources = [_total(self._groups[r * spans : (r + 1) * spans]) for r in range(EVENTS + 1)]
        self._all = _total(self._resources)

    def of(self, watch: Watch) -> tuple[int, int, int]:
        """Puts, the sum of their revisions, deletes."""
        match watch.scope:
            case "all":
                return self._all
            case "resource":
                return self._resources[watch.of]
            case "group":
                return self._groups[watch.of]
        return self._written.key_puts[watch.of], self._written.key_sums[watch.of], 0


def _total(parts: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    return sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts)


def compare(settings: SoakSettings, plan: Sequence[Watch], written: Written, arrived: Arrived) -> Delivery:
    """Compares every watch's counts with the writes."""
    expected = Expected(settings, written)
    wanted = events = 0
    wrong = []
    for number, watch in enumerate(plan):
        want = expected.of(watch)
        have = arrived.puts[number], arrived.sums[number], arrived.deletes[number]
        wanted += want[0] + want[2]
        events += have[0] + have[2]
        if want != have:
            wrong.append(
                f"watch {number} ({watch.scope} {watch.of}): {have[0]} puts and {have[2]} deletes "
                f"of {want[0]} and {want[2]}" + (", others" if want[::2] == have[::2] else "")
            )
    return Delivery(wanted, events, len(wrong), wrong[:10])
