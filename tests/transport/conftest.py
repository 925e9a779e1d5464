"""Fixtures: every call is tested on every transport; what is specific to HTTP/2, on kine's own only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.transport.transport_thread import TRANSPORTS, Channel, Served

if TYPE_CHECKING:
    from tests.transport.sample_routes import Seen


@pytest.fixture(params=TRANSPORTS, scope="package")
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="package")
def server(transport: str) -> Iterator[Served]:
    """A server that tests share."""
    running = Served(transport)
    yield running
    running.close()


@pytest.fixture
def channel(server: Served) -> Iterator[Channel]:
    with Channel(server.address) as channel:
        yield channel


@pytest.fixture
def seen(server: Served) -> Seen:
    return server.seen


Serve = Callable[..., Served]


@pytest.fixture
def serve(transport: str) -> Iterator[Serve]:
    """Starts servers for one test, with options of `Served`."""
    started: list[Served] = []

    def start(**options: Any) -> Served:
        started.append(Served(transport, **options))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The errors logged so far; requested by tests that expect some."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails if an error was logged, which nothing a client does may cause, unless the test uses `errors`."""
    caplog.set_level(logging.INFO)
    yield
    if "errors" not in request.fixturenames:
        told = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
        # grpcio has one poller per process, which may wake the previous test's loop; a server has one loop
        # only.
        messages = [record.getMessage() for record in told]
        assert [message for message in messages if "PollerCompletionQueue" not in message] == []
