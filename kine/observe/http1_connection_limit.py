"""A bound on an address's HTTP/1.1 connections that no client can use up for the others.

At the bound the connection that has been without a new request for longest makes room: a probe or a scraper
that comes is served, however many connections others hold open.
"""

from __future__ import annotations

import asyncio


class ConnectionLimit:
    """Invariant: at most `most` connections are open, in order of when each last asked for something."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        if len(self._open) >= self._most:
            longest = next(iter(self._open))
            longest.transport.abort()
            self._open.pop(longest).cancel()
        self._open[writer] = task

    def asked(self, writer: asyncio.StreamWriter) -> None:
        """A request has come by this connection."""
        task = self._open.pop(writer, None)
        if task is not None:  # else it has just made room for another
            self._open[writer] = task

    def leave(self, writer: asyncio.StreamWriter) -> None:
        self._open.pop(writer, None)

    async def close(self) -> None:
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
