"""The interface between database drivers and identity providers, which issue their credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

CONNECTING = "connecting to the database"


class IdentityError(Exception):
    """No credential is available now. The text says why and what to check, and holds no secret."""


class Provider(Protocol):
    """Called for every new connection; pooled connections are not affected by expiry."""

    advice: str  # what to check if the database refuses the credential

    async def credential(self, host: str, port: int, user: str) -> str | None:
        """The password to open a connection with, valid for minutes. Raises IdentityError.

        None means that the handshake finds its credential elsewhere, such as a Kerberos cache, and that it is
        ready now. `host` may be several names, comma-separated, if the provider allows it.
        """

    def report_to(self, on_wait: Callable[[str], None]) -> None:
        """Calls `on_wait` with the reason whenever a connection waits, and with `CONNECTING` afterwards."""

    def refused(self) -> None:
        """The database has refused the last credential: the next one must be a new one."""

    async def close(self) -> None:
        """Stops background tasks and removes temporary files."""
