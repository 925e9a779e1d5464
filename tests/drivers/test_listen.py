"""LISTEN/NOTIFY between instances on PostgreSQL, whatever else is announced during the listener's trial."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import psycopg
import pytest

from kine.drivers.postgres.listen_notify import NotificationListener
from kine.drivers.postgres.pipeline import Pipeline
from kine.drivers.postgres.statements import CHANNEL
from tests.databases import postgres
from tests.servers.postgres import database_server

Connection: TypeAlias = psycopg.AsyncConnection[Any]

PATIENCE = 60.0  # seconds, for what arrives without a request

pytestmark = pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-")


async def connect() -> Connection:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=database_server().port, user="postgres", password="secret", autocommit=True
    )


async def say(announcer: Connection, payload: str) -> None:
    await announcer.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


async def works(listener: NotificationListener) -> None:
    async with asyncio.timeout(PATIENCE):
        while not listener.works:
            await listener.heard()


async def polls(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(PATIENCE):
        while "polling instead" not in caplog.text:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def started(
    announce: Callable[[str], Awaitable[None]], wires: list[Pipeline]
) -> AsyncIterator[NotificationListener]:
    """A listener that announces itself with `announce`; the connections it opens are appended to `wires`."""

    async def listening() -> Pipeline:
        wires.append(Pipeline(await connect()))
        return wires[-1]

    listener = NotificationListener(listening, announce, "ours")
    listener.start()
    try:
        yield listener
    finally:
        await listener.close()
        for wire in wires:
            wire.close()


@pytest.fixture
async def announcer() -> AsyncIterator[Connection]:
    made = await connect()
    yield made
    await made.close()


async def test_announcements_of_others_during_the_trial_do_not_deafen(announcer: Connection) -> None:
    wires: list[Pipeline] = []

    async def later(payload: str) -> None:
        await heard.wait()
        for told in (payload, "another"):
            await say(announcer, told)

    underway: list[asyncio.Task[None]] = []
    heard = asyncio.Event()  # the first, by the listener

    async def announce(payload: str) -> None:
        hear = wires[0].hear

        def hears(told: bytes) -> None:
            hear(told)
            heard.set()

        wires[0].hear = hears
        await say(announcer, "ours")
        underway.append(asyncio.create_task(later(payload)))

    async with started(announce, wires) as listener:
        await works(listener)
        await underway[0]
        await say(announcer, "another")
        async with asyncio.timeout(PATIENCE):
            await listener.heard()


async def test_an_announcement_that_arrives_late_is_heard_all_the_same(
    announcer: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the database, or the machine, is busy at the start: kine once polled for ten minutes then."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("kine.drivers.postgres.listen_notify._TRIAL", 0.05)
    busy = asyncio.Event()

    async def announce(payload: str) -> None:
        await busy.wait()
        await say(announcer, payload)

    wires: list[Pipeline] = []
    async with started(announce, wires) as listener:
        await polls(caplog)
        assert not listener.works
        busy.set()
        await works(listener)

    assert len(wires) == 1


async def test_a_connection_that_ends_within_its_trial_is_replaced(
    announcer: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("kine.drivers.postgres.listen_notify._TRIAL", 0.05)
    monkeypatch.setattr("kine.drivers.postgres.listen_notify._RETRY", 0.05)
    wires: list[Pipeline] = []

    async def announce(payload: str) -> None:
        if len(wires) > 1:
            await say(announcer, payload)

    async with started(announce, wires) as listener:
        await polls(caplog)
        wires[0].close()
        await works(listener)

    assert len(wires) == 2
