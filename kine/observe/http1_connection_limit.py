"""Limit on an address's HTTP/1.1 connections that no client can exhaust for others.

At the limit, a new connection replaces the one that has been without a new request for longest. So a probe or
a scraper is served however many connections others hold open.
"""

from __future__ import annotations

import asyncio


class ConnectionLimit:
    """Invariant: at most `most` connections are open, in order of their last request."""

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
        """Records a request on this connection."""
        task = self._open.pop(writer, None)
        if task is not None:  # else it was just closed for another
            self._open[writer] = task

    def leave(self, writer: asyncio.StreamWriter) -> None:
        self._open.pop(writer, None)

    async def close(self) -> None:
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
