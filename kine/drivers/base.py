"""The seam between the store and a database: an ordered log of rows.

A row's id is its revision: strictly increasing, never reused. A driver appends groups of rows, tells
what others appended, reads values back, and removes what is superseded. It knows nothing of etcd: no
message, no watcher, no index.

Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable


class DriverError(Exception):
    """What went wrong, in words fit for a log: never a secret, never a database driver's raw text."""


class UnavailableError(DriverError):
    """The database cannot be reached or refuses for now. Nothing of the call was applied."""


class RefusedError(UnavailableError):
    """The database took the call and said no, perhaps for what is in one of the writes."""


class OvertakenError(UnavailableError):
    """What was read in parts was compacted meanwhile, so the parts do not belong together: begin again."""


class UnknownOutcomeError(DriverError):
    """The connection went while a write was under way and could not be asked afterwards."""


class NoSpaceError(DriverError):
    """The database is full. Nothing of the call was applied."""


class BusyError(DriverError):
    """Refused for now, for a reason that passes: the text says which, and is shown to the client."""


class OutOfRevisionsError(NoSpaceError):
    """The table's id column has no number left; the text says what to do. Nothing of the call was applied."""


class InvalidKeyError(DriverError):
    """This database cannot hold such a key; the text says why. Nothing of the call was applied."""


class TooLargeError(InvalidKeyError):
    """This database takes no row of this size; the text says whose limit that is. Nothing was applied."""


class BehindError(DriverError):
    """Others have appended since `head`, and a write rests on that not having happened.

    Nothing of the call was applied: tail the log, decide again, append again.
    """


class Row(NamedTuple):
    """A committed row."""

    id: int
    name: bytes
    created: bool
    deleted: bool
    create_revision: int  # of a creating row: its own id
    prev_revision: int  # id of the row this one replaces, 0 for none
    ttl: int  # the table's lease column: seconds, as Go kine reads it; 0: no lease
    value: bytes | None  # None where not asked for, or absent
    lease: int  # lease id, 0 where the row has none or another kind of writer wrote it
    version: int  # as recorded when rows below it were compacted; 0: count from the rows
    more: bool = False  # the next row belongs to the same write: one is not to be shown without the other


class NewRow(NamedTuple):
    """A row to append."""

    name: bytes
    created: bool
    deleted: bool
    create_revision: int  # 0 for a creating row
    prev_revision: int
    ttl: int
    value: bytes | None
    lease: int
    version: int = 0  # of the key from this row on; 0: count from the rows
    more: bool = False  # see `Row`


class Write(NamedTuple):
    """Rows that are appended together or not at all; all but the last say that there are more."""

    rows: tuple[NewRow, ...]
    # The decision behind this write rests on more than the rows it replaces (a compare on another key,
    # the absence of keys in a range): it must not be applied if anything was appended after `head`.
    guarded: bool


Outcome: TypeAlias = "Sequence[int] | DriverError | None"  # of one write: see `Log.append`


class LogTail(NamedTuple):
    rows: list[Row]  # in order of id, values included
    head: int  # every row up to here is among `rows`, known to the caller, or no more
    compact_revision: int


class LeaseRecord(NamedTuple):
    id: int
    ttl: int
    # Grows with each renewal: an instance that sees it change starts its clock anew. Negative: ended.
    renewals: int


# A record among the leases of a database that is being restored into: it holds a part of what it is to hold.
# No client may grant this id.
UNFINISHED = -(1 << 63)

PATIENCE = 300.0  # seconds, as Go kine


class Size(NamedTuple):
    allocated: int  # what the database takes of the disk, a log of its own included
    in_use: int
    log: int = 0  # of what is allocated: a write-ahead log that belongs to this database alone


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says to every driver; each takes what concerns it.

    Special values are translated once, in `kine.config`: here each number means what it says.
    """

    ca_file: str = ""  # TLS towards the database
    cert_file: str = ""
    key_file: str = ""
    skip_verify: bool = False
    identity_provider: str = ""
    identity_timeout: float = 15.0  # how long a new connection waits for credentials
    max_idle_connections: int = 20  # 0: none is kept
    max_open_connections: int = 0  # 0: no limit
    connection_max_lifetime: float = 0.0  # 0: no limit
    connection_max_idle_time: float = 120.0  # 0: no limit
    slow_sql_threshold: float = 1.0  # 0: off
    slow_sql_warning_threshold: float = 5.0  # 0: whatever is logged is a warning
    compact_timeout: float = 5.0
    max_request_bytes: int = 1536 * 1024  # the largest that clients may send: so large may a value be
    poll_interval: float = 1.0  # the longest pause between looks for others' commits
    patience: float = PATIENCE  # how long a database that is not there is waited for; 0: not at all


class Log(Protocol):
    """An open log. Every method may raise `UnavailableError`; what else is named with each."""

    async def open(self) -> None:
        """Connects, creates or checks the schema. Raises `DriverError` with what to do next."""

    def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        """Every row after `after` in order of id, without values, in blocks, as of one moment.

        What is appended or compacted meanwhile does not show. Raises `OvertakenError`, after some blocks
        maybe, where that cannot be kept.
        """

    async def compact_revision(self) -> int:
        """Up to where whatever is superseded is gone."""

    def peek_recorded_compaction(self) -> int | None:
        """As `recorded`, if that can be told at once (microseconds), else None."""

    async def recorded_compaction(self) -> int:
        """Up to where a compaction was begun, by whichever instance: nothing before is answered any more."""

    async def append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        """Appends all writes in one transaction, in order, and returns each one's ids in order.

        None stands for a write that was left out because a row it replaces has been replaced already:
        tail the log and decide again. An error stands for one that was refused by itself.

        `head` is the last revision the caller has applied. In one call a name occurs once. Raises
        `BehindError`, `NoSpaceError`, `InvalidKeyError`, `RefusedError`, `UnknownOutcomeError`.
        """

    def check(self, row: NewRow) -> None:
        """Asked about each row of a call that failed: raises InvalidKeyError if it is not for this database.

        It may let pass what only the database itself can tell.
        """

    def peek(self) -> int | None:
        """The newest committed id if that can be told at once (microseconds), else None."""

    def newest(self) -> Awaitable[int]:
        """The newest committed id, learnt after the call began.

        A future is asked already, and costs no task: every linearizable read waits for this where there is
        nothing to peek at. A call that raises does so when awaited.
        """

    async def tail(self, after: int, limit: int) -> LogTail:
        """The next committed rows after `after`.

        In order and final: no row with an id below the last one returned can appear any more. A driver
        whose database allots ids before commit waits for gaps, and fills them, in here. The last ones may
        be the beginning of a write.
        """

    async def changed(self, after: int) -> None:
        """Returns when rows after `after` may have been committed by others: a hint, on which to tail."""

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The values of these rows; a row that is no more is left out."""

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        """Removes what is superseded or deleted at or before `revision` and records it, atomically.

        `versions` are (id, version) of surviving rows whose count of changes can no longer be told from
        the rows. Returns the compact revision now recorded: another instance may have gone further.
        Raises `NoSpaceError`.
        """

    async def compacted(self) -> None:
        """After the last step of a compaction: returns space to the database's own keeping."""

    async def leases(self) -> list[LeaseRecord]: ...

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        """The record as it is now."""

    async def grant(self, lease_id: int, ttl: int, renewals: int = 0) -> bool:
        """Records a lease; False if the id is taken. Raises `NoSpaceError`."""

    async def renew(self, lease_ids: Sequence[int], renewals: int = 0) -> None:
        """Raises the number of renewals to this one, or by one where it is not below it."""

    async def expire(self, lease_id: int, renewals: int) -> bool:
        """Ends a lease that has been renewed so many times: no renewal counts any more; its record stays.

        False if it was renewed again. True also if it has ended before, or is no more.
        """

    async def forget(self, lease_id: int) -> None:
        """Drops the record of a lease; no error if there is none."""

    async def size(self) -> Size: ...

    async def defragment(self) -> None: ...

    def folder(self) -> str | None:
        """The directory on this machine that holds the data, for large temporary files; None without one."""

    async def close(self) -> None:
        """Finishes what was begun; idempotent."""


@runtime_checkable
class RestorableLog(Log, Protocol):
    """A log that can take what was kept elsewhere, while nobody serves from it."""

    async def advance(self, revision: int) -> None:
        """Makes `revision` the newest and the compact revision: nothing before it is answered any more.

        Of a log that has been served from, and is not past that revision. Cut off halfway, it can be asked
        again. Raises `DriverError` where that would cost keys that are there.
        """

    async def refused(self, rows: Iterable[Row]) -> dict[bytes, str]:
        """The names among these rows that `place` would refuse, each with the reason; nothing is written."""

    async def place(self, rows: Sequence[Row]) -> None:
        """Adds rows of names that have none, as a compaction leaves them: with create revision and version.

        In a log whose ids can be chosen they keep theirs, which no key's row has, and which are not after the
        compact revision; and it is all of them or none. In others they come last, one by one. Raises
        `NoSpaceError`, `InvalidKeyError`.
        """


@runtime_checkable
class WaitsForDatabase(Protocol):
    """What may wait for its database while it opens."""

    # Set by the caller: hears what it waits for, fit for a user's eyes, and why each attempt has failed.
    on_wait: Callable[[str], None]


@runtime_checkable
class BoundedIds(Protocol):
    """A log whose revisions may be used up."""

    def exhausted(self, revision: int) -> str:
        """Why nothing can be appended after this revision; empty where it can."""


@runtime_checkable
class LoadedInParts(Log, Protocol):
    """A log that is not loaded as of one moment: keys may be read whose deletion is compacted by then."""

    async def gone(self, names: Sequence[bytes]) -> set[bytes]:
        """Which of these names have no row any more."""


@runtime_checkable
class RecallsValues(Log, Protocol):
    """A log that writes what a row replaces beside it, and need not read what the caller still has."""

    # Set by the caller: the value of a row by its id, as it was appended; None if it is not at hand.
    recall: Callable[[int], bytes | None]
