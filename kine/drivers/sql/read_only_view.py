"""Read-only inspection of a database, in one snapshot, for `kine check` and `kine status`."""

from __future__ import annotations

from typing import Any, Protocol


class Inspector(Protocol):
    dialect: str  # "sqlite", "postgresql", "mysql"

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Returns the statement's rows, names as bytes; all statements share one snapshot.

        Raises DriverError.
        """

    async def names(self) -> set[str]:
        """Returns the names of all tables and indexes."""

    async def next_id(self) -> int:
        """Returns the next id of the table's allocator. Raises DriverError."""

    async def damage(self) -> list[str]:
        """Returns the faults that the database's own integrity check finds, if it has one."""

    def stale_log(self) -> str:
        """Explains what a log file next to a damaged database may mean; empty if there is none."""

    async def size(self) -> int:
        """Bytes."""
