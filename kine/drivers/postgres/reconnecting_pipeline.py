"""A pipeline that reconnects when its connection is lost, past its lifetime, or of an old generation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from psycopg import AsyncConnection

from kine.drivers.postgres.connection import Deadline
from kine.drivers.postgres.pipeline import Answer, Pipeline, Question, Statement
from kine.drivers.sql.pool import Generation

_LIMIT = 30.0  # seconds for a statement to be prepared


class ReconnectingPipeline:
    """A pipeline for concurrent callers: they send at once, without waiting for each other's results."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncConnection[Any]]],
        generation: Generation,
        lifetime: float,
    ) -> None:
        self._connect = connect
        self._current = generation
        self._lifetime = lifetime  # seconds a connection is used, 0: no limit
        self._old_at = 0.0
        self._wire: Pipeline | None = None
        self.generation = -1
        self._turn = asyncio.Lock()

    async def ask(self, questions: Sequence[Question], *, prepare: bool, limit: float) -> list[Answer]:
        """Runs the statements in one transaction within `limit` seconds (0: no limit); one result for each.

        Raises psycopg.Error, StatementError.
        """
        wire = self._wire
        if wire is None or self._unfit(wire):
            wire = await self.wire()
        if prepare:
            for statement, _ in questions:
                if statement.name and statement.name not in wire.prepared:
                    await self._prepare(wire, questions)
        with Deadline(wire.connection, limit):
            return await wire.ask(questions, prepared=prepare)

    def ready(self, statement: Statement, *, prepare: bool) -> Pipeline | None:
        """The pipeline, if it is open and, with `prepare`, has this statement prepared; else None."""
        wire = self._wire
        if wire is None or self._unfit(wire) or (prepare and statement.name not in wire.prepared):
            return None
        return wire

    async def wire(self) -> Pipeline:
        """An open pipeline, after reconnecting if needed. Raises StatementError."""
        async with self._turn:
            wire = self._wire
            if wire is None or self._unfit(wire):
                if wire is not None:
                    if wire.closed:
                        self._current.end(self.generation)
                    wire.retire()
                self._wire = None
                generation = self._current.number
                wire = self._wire = Pipeline(await self._connect())
                self.generation = generation
                self._old_at = asyncio.get_running_loop().time() + self._lifetime
            return wire

    def _unfit(self, wire: Pipeline) -> bool:
        old = self._lifetime > 0 and asyncio.get_running_loop().time() > self._old_at
        return old or wire.closed or self.generation != self._current.number

    async def _prepare(self, wire: Pipeline, questions: Sequence[Question]) -> None:
        async with self._turn:
            for statement, _ in questions:
                if statement.name and statement.name not in wire.prepared:
                    with Deadline(wire.connection, _LIMIT):
                        await wire.prepare(statement)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
