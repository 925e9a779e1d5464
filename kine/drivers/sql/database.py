"""What the dialect-neutral log asks of a database server. PostgreSQL and MySQL answer, each in its way.

Statements are those of `statements`, with `?` for a parameter. Every method may raise `StatementError`;
after it the transaction, if any, is rolled back when its block ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from kine.drivers.base import BehindError, NewRow, Size
from kine.drivers.sql.id_gaps import Filler


class Batch(NamedTuple):
    """Rows to append, and how their transaction is known afterwards."""

    rows: Sequence[NewRow]
    writer: int  # this instance's row in kine_writer
    number: int  # counts up
    head: int  # the newest id the caller has applied
    floor: int = 0  # the highest id the caller has seen, which may be no more: new ones are above
    brief: bool = False  # without the values that are replaced, which Go kine would show to a watch


class WentBackError(BehindError):
    """The database ends before what the caller has applied: commits were lost."""


class FencedError(Exception):
    """The instance's row in kine_writer does not admit this batch: nothing was written."""


def idle_limit(lock_timeout: float) -> float:
    """Seconds a transaction of ours may be idle: less than those wait who need what it has locked."""
    return max(1.0, min(5.0, lock_timeout / 2)) if lock_timeout else 5.0


class Session(Protocol):
    """A transaction under way."""

    newest: int  # of a transaction that took its turn: the newest id committed before it

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """The rows, as tuples, names as bytes; none for a statement that returns none."""

    async def changed(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """The number of rows a statement has changed."""

    async def insert(self, rows: Sequence[NewRow]) -> list[int]:
        """Appends the rows and returns their ids, in order; CONFLICT if the unique index has one of them."""

    async def place(self, ids: Sequence[int], rows: Sequence[NewRow]) -> None:
        """Inserts the rows at these ids; CONFLICT if one of them is taken."""

    async def fill(self, fillers: Sequence[Filler]) -> set[int]:
        """Inserts gap rows, waiting for whoever is about to commit one of the ids; returns those filled."""

    async def remove(self, ids: Sequence[int]) -> None:
        """Deletes rows of `kine` and what `kine_extra` has of them; nothing is locked but what goes."""

    async def allot_after(self, row_id: int) -> None:
        """The next row's id is above this one's, which exists."""


class Database(Protocol):
    on_wait: Callable[[str], None]  # set by the caller: hears what a connection waits for besides the server
    lock_timeout: float  # seconds to wait for others' transactions, 0: without end

    @property
    def max_storable_id(self) -> int:
        """That the table can hold; 0: not known. Of an open database."""

    async def open(self) -> None:
        """Connects, creates the database and its tables where they are missing, migrates if asked to."""

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """One reading statement, on a connection of its own; repeated on a new one if that was lost."""

    def newest(self) -> Awaitable[int]:
        """The newest committed id, of a server that takes writes: what a replica knows may be old.

        Where it is asked at once, without a coroutine, it is a future, and fails with DriverError.
        """

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]: ...

    async def refused(self, rows: Iterable[NewRow]) -> dict[bytes, str]:
        """The names that the table cannot hold, or not with these values, each with the reason."""

    async def append(self, batch: Batch) -> list[int | None]:
        """One transaction: takes its turn, inserts the rows that conflict with nothing, commits.

        Returns an id for each row, None for one that was left out: the row it replaces has been replaced.
        Raises FencedError.
        """

    def check(self, row: NewRow) -> None:
        """Raises InvalidKeyError for a row that this server cannot hold."""

    def transaction(self, name: str, *, batch: Batch | None = None) -> AbstractAsyncContextManager[Session]:
        """Commits when the block ends well. With a batch it takes its turn among the writers first."""

    async def advance_allocator(self, floor: int) -> int | None:
        """Moves the allocator of ids past every row and `floor`; what it stood at, None if it was past.

        It is behind after a restore from a dump, or a cut-over by logical replication.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Session]:
        """A reading transaction that sees one moment, however long it lasts."""

    async def unsafe(self) -> str:
        """Why no write is safe on the tables as they are now, and what mends it; empty where it is."""

    async def size(self) -> Size: ...

    async def defragment(self) -> None: ...

    async def hint(self) -> None:
        """Returns when another instance says that it has committed; never, where that cannot be known."""

    @property
    def hinting(self) -> bool:
        """Whether such hints do arrive at present."""

    async def close(self) -> None: ...
