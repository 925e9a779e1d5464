"""A database looked at without being touched: one moment of it, for `kine check` and `kine status`."""

from __future__ import annotations

from typing import Any, Protocol


class Inspector(Protocol):
    dialect: str  # "sqlite", "postgresql", "mysql"

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Its rows, names as bytes; all statements see the same moment. Raises DriverError."""

    async def names(self) -> set[str]:
        """Of all tables and indexes."""

    async def next_id(self) -> int:
        """What the allocator of the table's ids gives next. Raises DriverError."""

    async def damage(self) -> list[str]:
        """What the database itself finds wrong with its storage, where it can be asked."""

    def stale_log(self) -> str:
        """Of a damaged database, what a log beside it may mean; empty where there is none."""

    async def size(self) -> int:
        """Bytes."""
