"""Errors of a statement, the same for every database: only the distinctions that the log needs."""

from __future__ import annotations

from enum import Enum, auto

from kine.drivers.base import (
    DriverError,
    InvalidKeyError,
    NoSpaceError,
    OutOfRevisionsError,
    RefusedError,
    TooLargeError,
    UnavailableError,
    UnknownOutcomeError,
)
from kine.drivers.sql.int32_ids import USED_UP


class Kind(Enum):
    REUSED = auto()  # the database gave an id that is not above every other; nothing was written
    CONFLICT = auto()  # a unique index has the row already; the statement did nothing
    AGAIN = auto()  # deadlock or serialization: the transaction was rolled back and may be repeated
    LOCKED = auto()  # waited for a lock as long as was allowed
    REFUSED = auto()  # the server said no; the transaction is rolled back
    AWAY = auto()  # no connection could be made: nothing was sent
    LOST = auto()  # the connection broke while a statement was under way
    FULL = auto()  # no space
    KEY = auto()  # a key this database cannot hold
    LARGE = auto()  # a row that is larger than this database takes
    UNABLE = auto()  # the server takes no such statement now, whatever is in it


class StatementError(Exception):
    """A statement failed. The text has the server's reason, never a secret nor a value."""

    def __init__(self, kind: Kind, code: str, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code  # SQLSTATE or error number, for metrics
        self.permanent = permanent  # waiting for the database cannot help: a start fails at once

    def translated(self) -> DriverError:
        """Returns the error for the store. The statement must not have been a commit."""
        if self.kind is Kind.FULL:
            return NoSpaceError(str(self))
        if self.kind is Kind.KEY:
            return InvalidKeyError(str(self))
        if self.kind is Kind.LARGE:
            return TooLargeError(str(self))
        if self.kind is Kind.REFUSED:
            return RefusedError(str(self))
        return UnavailableError(str(self))

    def undecided(self) -> UnknownOutcomeError:
        return UnknownOutcomeError(f"the write's outcome could not be learnt: {self}")


class OutOfIdsError(StatementError):
    """The id column is a 32-bit number, as old releases of Go kine made it, and the last one is used."""

    def __init__(self, code: str) -> None:
        super().__init__(Kind.FULL, code, USED_UP)

    def translated(self) -> DriverError:
        return OutOfRevisionsError(str(self))
