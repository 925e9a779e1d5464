"""The protocol between the dialect-neutral log and a database server, implemented for PostgreSQL and MySQL.

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
    """Rows to append, and the identity by which their transaction is recognized afterwards."""

    rows: Sequence[NewRow]
    writer: int  # this instance's row in kine_writer
    number: int  # counts up
    head: int  # the newest id the caller has applied
    floor: int = 0  # the highest id the caller has seen, even if it is lost: new ids must be above
    brief: bool = False  # without old values, which only Go kine reads, for the events of a watch


class WentBackError(BehindError):
    """The database ends before what the caller has applied: commits were lost."""


class FencedError(Exception):
    """The instance's row in kine_writer does not admit this batch: nothing was written."""


def idle_limit(lock_timeout: float) -> float:
    """Seconds that a transaction of kine may be idle: less than others wait for the locks it holds."""
    return max(1.0, min(5.0, lock_timeout / 2)) if lock_timeout else 5.0


class Session(Protocol):
    """An open transaction."""

    newest: int  # if the transaction took the write lock: the newest id committed before it

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Returns the rows, as tuples, names as bytes; none for a statement that returns none."""

    async def changed(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Returns the number of rows the statement changed."""

    async def insert(self, rows: Sequence[NewRow]) -> list[int]:
        """Appends the rows and returns their ids, in order; CONFLICT if the unique index has one of them."""

    async def place(self, ids: Sequence[int], rows: Sequence[NewRow]) -> None:
        """Inserts the rows at these ids; CONFLICT if one of them is taken."""

    async def fill(self, fillers: Sequence[Filler]) -> set[int]:
        """Inserts gap rows, waiting for transactions that hold one of the ids; returns the ids filled."""

    async def remove(self, ids: Sequence[int]) -> None:
        """Deletes rows of `kine` and theirs of `kine_extra`; locks only the rows it deletes."""

    async def allot_after(self, row_id: int) -> None:
        """Makes the next row's id higher than this one, which exists."""


class Database(Protocol):
    on_wait: Callable[[str], None]  # set by the caller, called when a connection waits for credentials
    lock_timeout: float  # seconds to wait for others' transactions; 0: for ever

    @property
    def max_storable_id(self) -> int:
        """The highest id that the table can hold; 0: not known. The database must be open."""

    async def open(self) -> None:
        """Connects, creates the database and its tables if they are missing, migrates if configured."""

    async def query(self, name: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Runs one reading statement on a connection of its own; repeats it on a new one if that was lost."""

    def newest(self) -> Awaitable[int]:
        """Returns the newest committed id, from a server that accepts writes: a replica may lag.

        If the query is sent at once, without a coroutine, this is a future, which fails with DriverError.
        """

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]: ...

    async def refused(self, rows: Iterable[NewRow]) -> dict[bytes, str]:
        """Returns the names that the table cannot hold, or not with these values, each with the reason."""

    async def append(self, batch: Batch) -> list[int | None]:
        """Runs one transaction: takes the write lock, inserts the rows without a conflict, commits.

        Returns an id for each row, None for one that was left out: the row it replaces has been replaced.
        Raises FencedError.
        """

    def check(self, row: NewRow) -> None:
        """Raises InvalidKeyError for a row that this server cannot hold."""

    def transaction(self, name: str, *, batch: Batch | None = None) -> AbstractAsyncContextManager[Session]:
        """Commits when the block ends without an error. With a batch, takes the write lock first."""

    async def advance_allocator(self, floor: int) -> int | None:
        """Moves the allocator of ids past every row and `floor`. Returns its old value, None if it was past.

        It is behind after a restore from a dump, or a cut-over by logical replication.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Session]:
        """A read-only transaction with one snapshot, however long it lasts."""

    async def unsafe(self) -> str:
        """Returns why writes are unsafe on the tables as they are now, with the remedy; empty if safe."""

    async def size(self) -> Size: ...

    async def defragment(self) -> None: ...

    async def hint(self) -> None:
        """Returns when another instance notifies of a commit; never, if the server has no notifications."""

    @property
    def hinting(self) -> bool:
        """Whether such notifications arrive at present."""

    async def close(self) -> None: ...
