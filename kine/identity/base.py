"""The seam between database drivers and whoever issues their credentials."""

from __future__ import annotations

from typing import Protocol


class IdentityError(Exception):
    """No credential could be had now. The text says why and what to check, and holds no secret."""


class Provider(Protocol):
    """Asked for every new connection; those in a pool live on."""

    advice: str  # what to check where the database refuses what we gave it

    async def password(self, host: str, port: int, user: str) -> str:
        """The password to open a connection with, good for minutes. Raises IdentityError."""
