"""Scenarios that start servers: cold start, and memory by the number of keys."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING

from bench.histogram import Histogram
from bench.operations import key_of, parse_range
from bench.process_usage import Server
from bench.results import Round
from bench.server_launcher import PeerError, Running

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE = 2.0  # seconds between the last write and reading the memory


def cold_start(running: Running, prefix: bytes, keys: int, size: int) -> Round:
    """Restarts the server; the latency is the time from the start of the process to the first answered get.

    The data is in the operating system's page cache, as after a restart of the process, not of the machine.
    Raises PeerError.
    """
    stopped = running.stop()
    started = running.launch()
    last = key_of(prefix, keys - 1)
    answer = parse_range(running.wait_for_answer(last))
    taken = monotonic() - started
    if len(answer.kvs) != 1 or len(answer.kvs[0].value) != size:
        raise PeerError(f"{running.recipe.name}: after a restart a key is missing")
    latency = Histogram()
    latency.record([taken])
    usage = Server(running.pids).usage()
    return Round(
        rate=1 / taken,
        latency={"first get": latency.to_json()},
        elapsed=taken,
        completed=1,
        server_rss=usage.rss,
        extra={"first_get_seconds": taken, "cpu_seconds": usage.cpu, "stop_seconds": stopped},
    )


def memory(running: Running, load: Callable[[Running], None], keys: int) -> Round:
    """Memory of a fresh server, then with the keys that `load` writes, then after a restart with them."""
    empty = Server(running.pids).usage().rss
    began = monotonic()
    load(running)
    taken = monotonic() - began
    sleep(SETTLE)
    loaded = Server(running.pids).usage()
    disk = running.disk_bytes()
    running.stop()
    running.launch()
    running.wait_for_answer()
    sleep(SETTLE)
    restarted = Server(running.pids).usage().rss
    return Round(
        rate=keys / taken,
        elapsed=taken,
        completed=keys,
        server_rss=loaded.rss,
        server_cpu_per_request=loaded.cpu / keys,
        extra={
            "rss_empty": empty,
            "rss_loaded": loaded.rss,
            "rss_restarted": restarted,
            "rss_per_key": (loaded.rss - empty) / keys,
            "disk_bytes": disk,
        },
    )
