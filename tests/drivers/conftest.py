"""Fixtures: a database of each kind for the drivers' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from kine import drivers
from kine.drivers.base import Log, Options
from tests.databases import mysql, nats, postgres
from tests.drivers.driver_databases import (
    GoWriter,
    MemoryPlace,
    MysqlPlace,
    NatsPlace,
    Place,
    PostgresPlace,
    SqlitePlace,
)

Server = TypeVar("Server", postgres.Postgres, mysql.Mysql, nats.Nats)
OpenLog = Callable[..., Awaitable[Log]]


def _running(kind: ModuleType, start: Callable[[], Server]) -> Iterator[Server]:
    if reason := kind.missing():
        pytest.skip(reason)
    server = start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    yield from _running(postgres, postgres.Postgres)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[mysql.Mysql]:
    yield from _running(mysql, mysql.Mysql)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[nats.Nats]:
    yield from _running(nats, nats.Nats)


def _place(kind: str, request: pytest.FixtureRequest, directory: Path) -> Place:
    if kind == "sqlite":
        return SqlitePlace(directory)
    if kind == "memory":
        return MemoryPlace()
    server = request.getfixturevalue(f"{kind}_server")
    return {"postgres": PostgresPlace, "mysql": MysqlPlace, "nats": NatsPlace}[kind](server)  # type: ignore[no-any-return]


@pytest.fixture(params=["sqlite", "postgres", "mysql", "nats"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An unused database, on each kind of server."""
    return _place(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres", "mysql", "nats", "memory"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Likewise, and the in-memory log, which takes part in the contract's tests only."""
    return _place(request.param, request, tmp_path)


@pytest.fixture(params=["postgres", "mysql"])
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Likewise, on servers that several instances write to concurrently."""
    return _place(request.param, request, tmp_path)


@pytest.fixture
async def open_log() -> AsyncIterator[OpenLog]:
    """Opens logs on a place, and closes them after the test."""
    opened: list[Log] = []

    async def open_log(
        place: Place, parameters: str = "", *, port: int | None = None, options: Options | None = None
    ) -> Log:
        log = drivers.connect(place.endpoint(parameters, port), options or Options())
        opened.append(log)
        await log.open()
        return log

    yield open_log
    for log in opened:
        await log.close()


@pytest.fixture
async def log(place: Place, open_log: OpenLog) -> Log:
    return await open_log(place)


@pytest.fixture
def go() -> Iterator[Callable[[Place], GoWriter]]:
    opened: list[GoWriter] = []

    def go(place: Place) -> GoWriter:
        writer = place.go()
        opened.append(writer)
        return writer

    yield go
    for writer in opened:
        writer.close()
