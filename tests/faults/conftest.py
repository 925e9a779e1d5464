"""Fixtures: a shared pair of instances for each kind of server, as starting one takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.client import Client
from tests.faults.run_databases import KINDS, missing, new_place

if TYPE_CHECKING:
    from tests.drivers.driver_databases import Place
    from tests.servers import Backend
    from tests.servers.process import Instance


class Pair(NamedTuple):
    """Two instances on one database, of which the second reads missed rows in blocks of three."""

    one: Client
    other: Client
    paused: Instance  # the second, to be suspended


@pytest.fixture(scope="session")
def instances(
    backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Instance, Instance]]:
    if not backend.capabilities.second_instance or backend.transport == "grpcio":
        pytest.skip("no second instance there, or the same as on the other transport")
    directory = tmp_path_factory.mktemp("pair")
    first = backend.start(directory)
    second = backend.start(directory, progress_interval=0.5, flags=("--poll-batch-size=3",))
    yield first, second
    second.resume()
    for instance in (first, second):
        assert instance.running, instance.log.read_text()[-3000:]
        instance.kill()


@pytest.fixture
def pair(instances: tuple[Instance, Instance]) -> Iterator[Pair]:
    first, second = instances
    with Client(first.address) as one, Client(second.address) as other:
        other.revision()
        yield Pair(one, other, second)
        second.resume()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    """An unused database, on each kind of server that instances can share."""
    if reason := missing(request.param):
        pytest.skip(reason)
    return new_place(request.param)
