"""A database looked at without being touched: one moment of it, for `kine check` and `kine status`."""

from __future__ import annotations

from typing import Any, Protocol


class View(Protocol):
    dialect: str  # "sqlite", "postgresql", "mysql"

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Its rows, names as bytes; all statements see the same moment. Raises DriverError."""

    async def names(self) -> set[str]:
        """Of all tables and indexes."""

    async def damage(self) -> list[str]:
        """What the database itself finds wrong with its storage, where it can be asked."""

    async def size(self) -> int:
        """Bytes."""
