"""Wall clock steps of more than a year: the instance's leases still live as long as promised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.client import DELETE, Client, prefix_end
from tests.databases import clock_shim
from tests.databases.clock_shim import Shim
from tests.faults.run_databases import missing, new_place
from tests.servers.kine import start_kine
from tests.txn_ops import put

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(clock_shim.missing()), reason=clock_shim.missing() or "-"),
]
STEP = 400 * 86400.0  # seconds
TTL = 4
PREFIX = b"/registry/clock/"


class Pair(NamedTuple):
    stepped: Client
    other: Client
    clock: Shim


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two instances on one file; the clock of the first can be stepped."""
    directory: Path = tmp_path_factory.mktemp("clock")
    clock = Shim()
    endpoint = f"sqlite://{directory / 'state.db'}"
    first = start_kine(endpoint, "http2", directory, environment=clock.environment)
    second = start_kine(endpoint, "http2", directory)
    with Client(first.address) as stepped, Client(second.address) as other:
        yield Pair(stepped, other, clock)
    first.kill()
    second.kill()


@pytest.mark.parametrize("step", [STEP, -STEP], ids=["forwards", "back"])
def test_a_step_of_the_clock_neither_ends_leases_nor_lengthens_them(pair: Pair, step: float) -> None:
    pair.clock.step_clock(0)
    long = [client.grant(600).ID for client in (pair.stepped, pair.other)]
    for lease in long:
        pair.other.put(PREFIX + b"long/%d" % lease, lease=lease)
    with pair.other.watch() as watch:
        watch.create(PREFIX, prefix_end(PREFIX))
        granted = {}
        for client in (pair.stepped, pair.other):
            sent = time.monotonic()
            lease = client.grant(TTL).ID
            pair.stepped.put(PREFIX + b"short/%d" % lease, lease=lease)
            granted[PREFIX + b"short/%d" % lease] = sent

        pair.clock.step_clock(step)

        while granted:
            for event in watch.receive(20).events:
                if event.type == DELETE:
                    assert time.monotonic() - granted.pop(event.kv.key) >= TTL
    for lease in long:
        for client in (pair.stepped, pair.other):
            assert client.time_to_live(lease).TTL > 500
            assert client.keep_alive_once(lease).TTL == 600
    assert pair.stepped.range(PREFIX, prefix_end(PREFIX), count_only=True).count >= len(long)


def test_instances_started_with_wrong_clocks_hinder_no_other(tmp_path: Path) -> None:
    """Instances know each other by rows with their start times, of which old ones are dropped."""
    if reason := missing("postgres"):
        pytest.skip(reason)
    place = new_place("postgres")
    ahead, behind = Shim(), Shim()
    ahead.step_clock(STEP)
    behind.step_clock(-STEP)
    started = []
    try:
        with ExitStack() as stack:
            clients = []
            for environment in ({}, ahead.environment, behind.environment, {}):
                started.append(start_kine(place.endpoint(), "http2", tmp_path, environment=environment))
                clients.append(stack.enter_context(Client(started[-1].address)))
                for client in clients:
                    client.put(PREFIX + b"a", b"put")
                    client.txn([], [put(PREFIX + b"b", b"1"), put(PREFIX + b"c", b"2")])
            assert len({client.revision() for client in clients}) == 1
    finally:
        for instance in started:
            instance.kill()
