"""Fault injection: a schedule drawn from the seed, one fault at a time, each healed before the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.faults.backing_services import slow_sync

if TYPE_CHECKING:
    from tests.faults.cluster import Cluster

_PROCESS = ("kill", "pause", "remove")
# What a connection to the database can suffer; all but `cut` last, and are healed.
_NETWORK = ("cut", "swallow", "stall", "stall requests", "stall answers", "delay requests", "delay answers")

# Seconds that an instance's wall clock is off, forwards and then back, or the other way.
_STEPS = (5, 3600, 400 * 86400, -5, -3600, -400 * 86400)


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    number: int  # of the instance, or of the node
    lasts: float  # seconds
    then: float  # seconds without faults after it

    def __str__(self) -> str:
        return f"{self.kind} ({self.number}, {self.lasts:.1f} s)"


def kinds(cluster: Cluster) -> list[str]:
    """The kinds of fault that this cluster can suffer."""
    process = [kind for kind in _PROCESS if kind == "pause" or cluster.backend.capabilities.survives_kill]
    found = [*process, *(_NETWORK if cluster.proxies else ()), *cluster.behind.faults]
    if cluster.shims:
        found.append("step clock")
        if cluster.backend.kind == "sqlite":  # there the instances themselves call fsync
            found.append("slow fsync")
    return found


def schedule(seed: str, cluster: Cluster) -> Iterator[Fault]:
    """Yields faults without end. Every kind comes once before any repeats."""
    draw = Random(f"{seed}/faults")
    known = kinds(cluster)
    while True:
        for kind in draw.sample(known, len(known)):
            yield Fault(kind, draw.randrange(cluster.size), draw.uniform(0.3, 1.5), draw.uniform(0.2, 1.0))


def inflict(fault: Fault, cluster: Cluster) -> None:
    """Injects a fault; returns once it has been healed."""
    number = fault.number
    if fault.kind == "pause":
        instance = cluster.instances[number]
        instance.suspend()
        time.sleep(fault.lasts)
        instance.resume()
    elif fault.kind in ("kill", "remove"):
        instance = cluster.take(number)
        if fault.kind == "kill":
            instance.kill()
        else:
            instance.stop()
        time.sleep(fault.lasts)
        cluster.start_instance(number)
    elif fault.kind in _NETWORK:
        proxy = cluster.proxies[number]
        getattr(proxy, fault.kind.replace(" ", "_"))()
        if fault.kind != "cut":
            time.sleep(fault.lasts)
            proxy.heal()
    elif fault.kind == "step clock":
        step = Random(str(fault)).choice(_STEPS)
        cluster.shims[number].step_clock(step)
        time.sleep(fault.lasts)
        cluster.shims[number].step_clock(0)
    elif fault.kind == "slow fsync" and fault.kind not in cluster.behind.faults:
        slow_sync(cluster.shims, number, fault.lasts)
    else:
        cluster.behind.faults[fault.kind](number, fault.lasts)
    time.sleep(fault.then)
