"""Where a new connection's password comes from, if not from the endpoint."""

from __future__ import annotations

from typing import Protocol


class Credentials(Protocol):
    async def password(self, host: str, port: int, user: str) -> str:
        """Called for every new connection; pooled ones live on. Raises DriverError."""
