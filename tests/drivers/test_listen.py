"""Hearing from other instances on PostgreSQL, whatever else is announced while it is tried out."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from kine.drivers.postgres.listen import Listener
from kine.drivers.postgres.statements import CHANNEL
from kine.drivers.postgres.wire import Wire
from tests.databases import postgres
from tests.servers.postgres import database_server


@pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-")
async def test_announcements_of_others_during_the_trial_do_not_deafen() -> None:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            host="127.0.0.1", port=database_server().port, user="postgres", password="secret", autocommit=True
        )

    announcer = await connect()

    async def say(payload: str) -> None:
        await announcer.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

    async def later(payload: str) -> None:
        await asyncio.sleep(0.2)  # the listener has heard the first by then
        for told in (payload, "another"):
            await say(told)

    underway: list[asyncio.Task[None]] = []

    async def announce(payload: str) -> None:
        await say("ours")
        underway.append(asyncio.create_task(later(payload)))

    wire = Wire(await connect())

    async def listening() -> Wire:
        return wire

    listener = Listener(listening, announce, "ours")
    listener.start()
    try:
        async with asyncio.timeout(10):
            while not listener.works:
                await listener.heard()
        await underway[0]
        await say("another")
        async with asyncio.timeout(10):
            await listener.heard()
    finally:
        await listener.close()
        wire.close()
        await announcer.close()
