"""The seam between database drivers and whoever issues their credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

CONNECTING = "connecting to the database"


class IdentityError(Exception):
    """No credential could be had now. The text says why and what to check, and holds no secret."""


class Provider(Protocol):
    """Asked for every new connection; those in a pool live on."""

    advice: str  # what to check where the database refuses what we gave it

    async def credential(self, host: str, port: int, user: str) -> str | None:
        """The password to open a connection with, good for minutes. Raises IdentityError.

        None: the connection's own handshake finds what it needs, which is ready now. `host` may be
        several names, comma-separated, where the provider's rules allow it.
        """

    def report_to(self, on_wait: Callable[[str], None]) -> None:
        """Has `on_wait` told what a connection waits for, and that it goes on."""

    def refused(self) -> None:
        """The database refused what was given last: the next one must be made anew."""

    async def close(self) -> None:
        """Leaves nothing behind."""
