"""The driver's own cost, measured with the same load against a server that does nothing."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench import echo_server
from bench.comparison_run import Comparison, RunSettings
from bench.endpoint import parse
from bench.process_usage import Server
from bench.results import Peer
from bench.scenarios import SCENARIOS, with_settings
from bench.servers_under_test import Target
from bench.worker_processes import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Series

_START = 60.0  # seconds, on a busy machine


@contextmanager
def running_echo_server() -> Iterator[tuple[str, int]]:
    """Runs an echo server; yields its URL and process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=echo_server.serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START):
            raise RuntimeError(f"the echo server did not start within {_START:.0f} s")
        yield f"http://127.0.0.1:{ours.recv()}", process.pid or 0
    finally:
        ours.close()
        process.join(2.0)
        process.terminate()


def calibrate(workers: int, clients: int, connections: int, duration: float) -> Series:
    """One round of creates of 1 kB against the echo server."""
    with running_echo_server() as (url, pid), Workers(workers) as pool:
        target = Target(parse(f"echo={url}"), Peer("echo", url), Server([pid]))
        comparison = Comparison(pool, [target], RunSettings(rounds=1, connections=connections))
        return comparison.run(with_settings(SCENARIOS["create"], duration=duration, clients=clients))[0]
