"""Hearing from other instances on PostgreSQL, whatever else is announced while it is tried out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
import pytest

from kine.drivers.postgres.listen import Listener
from kine.drivers.postgres.statements import CHANNEL
from kine.drivers.postgres.wire import Wire
from tests.databases import postgres
from tests.servers.postgres import database_server

PATIENCE = 60.0  # seconds, for what comes by itself

pytestmark = pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-")


async def connect() -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=database_server().port, user="postgres", password="secret", autocommit=True
    )


async def say(announcer: psycopg.AsyncConnection[Any], payload: str) -> None:
    await announcer.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


async def works(listener: Listener) -> None:
    async with asyncio.timeout(PATIENCE):
        while not listener.works:
            await listener.heard()


async def test_announcements_of_others_during_the_trial_do_not_deafen() -> None:
    announcer = await connect()

    async def later(payload: str) -> None:
        await heard.wait()
        for told in (payload, "another"):
            await say(announcer, told)

    underway: list[asyncio.Task[None]] = []
    heard = asyncio.Event()  # the first, by the listener

    async def announce(payload: str) -> None:
        hear = wire.hear

        def hears(told: bytes) -> None:
            hear(told)
            heard.set()

        wire.hear = hears
        await say(announcer, "ours")
        underway.append(asyncio.create_task(later(payload)))

    wire = Wire(await connect())

    async def listening() -> Wire:
        return wire

    listener = Listener(listening, announce, "ours")
    listener.start()
    try:
        await works(listener)
        await underway[0]
        await say(announcer, "another")
        async with asyncio.timeout(PATIENCE):
            await listener.heard()
    finally:
        await listener.close()
        wire.close()
        await announcer.close()


async def test_an_announcement_that_arrives_late_is_heard_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database, or a machine, that is busy at the start: it had been polled for ten minutes."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("kine.drivers.postgres.listen._TRIAL", 0.05)
    announcer = await connect()
    busy = asyncio.Event()

    async def announce(payload: str) -> None:
        await busy.wait()
        await say(announcer, payload)

    wire = Wire(await connect())

    async def listening() -> Wire:
        return wire

    listener = Listener(listening, announce, "ours")
    listener.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while "polling instead" not in caplog.text:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        assert not listener.works
        busy.set()
        await works(listener)
    finally:
        await listener.close()
        wire.close()
        await announcer.close()


async def test_a_connection_that_ends_within_its_trial_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("kine.drivers.postgres.listen._TRIAL", 0.05)
    monkeypatch.setattr("kine.drivers.postgres.listen._RETRY", 0.05)
    announcer = await connect()
    wires: list[Wire] = []

    async def announce(payload: str) -> None:
        if len(wires) > 1:
            await say(announcer, payload)

    async def listening() -> Wire:
        wires.append(Wire(await connect()))
        return wires[-1]

    listener = Listener(listening, announce, "ours")
    listener.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while "polling instead" not in caplog.text:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        wires[0].close()
        await works(listener)
    finally:
        await listener.close()
        wires[-1].close()
        await announcer.close()

    assert len(wires) == 2
