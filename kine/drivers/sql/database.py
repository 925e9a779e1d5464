"""What the dialect-neutral log asks of a database server. PostgreSQL and MySQL answer, each in its way.

Statements are those of `statements`, with `?` for a parameter. Every method may raise `StatementError`;
after it the transaction, if any, is rolled back when its block ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from kine.drivers.base import NewRow, Size


class Batch(NamedTuple):
    """Rows to append, and how their transaction is known afterwards."""

    rows: Sequence[NewRow]
    writer: int  # this instance's row in kine_writer
    number: int  # counts up
    head: int  # the newest id the caller has applied


class FencedError(Exception):
    """The instance's row in kine_writer does not admit this batch: nothing was written."""


class Session(Protocol):
    """A transaction under way."""

    newest: int  # of a transaction that took its turn: the newest id committed before it

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """The rows, as tuples, names as bytes; none for a statement that returns none."""

    async def changed(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """The number of rows a statement has changed."""

    async def insert(self, rows: Sequence[NewRow]) -> list[int]:
        """Appends the rows and returns their ids, in order; CONFLICT if the unique index has one of them."""

    async def fill(self, ids: Sequence[int]) -> set[int]:
        """Inserts gap rows, waiting for whoever is about to commit one of the ids; returns those filled."""


class Database(Protocol):
    lock_timeout: float  # seconds to wait for others' transactions, 0: without end

    async def open(self) -> None:
        """Connects, creates the database and its tables where they are missing, migrates if asked to."""

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """One reading statement, on a connection of its own; repeated on a new one if that was lost."""

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]: ...

    async def append(self, batch: Batch) -> list[int | None]:
        """One transaction: takes its turn, inserts the rows that conflict with nothing, commits.

        Returns an id for each row, None for one that was left out: the row it replaces has been replaced.
        Raises FencedError.
        """

    def transaction(self, name: str, *, batch: Batch | None = None) -> AbstractAsyncContextManager[Session]:
        """Commits when the block ends well. With a batch it takes its turn among the writers first."""

    async def size(self) -> Size: ...

    async def defragment(self) -> None: ...

    async def hint(self) -> None:
        """Returns when another instance says that it has committed; never, where that cannot be known."""

    @property
    def hinting(self) -> bool:
        """Whether such hints do arrive at present."""

    async def close(self) -> None: ...
