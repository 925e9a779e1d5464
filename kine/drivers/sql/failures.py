"""How a statement can fail, whatever the database: what the log above needs to know, and no more."""

from __future__ import annotations

from enum import Enum, auto

from kine.drivers.base import (
    DriverError,
    InvalidKeyError,
    NoSpaceError,
    UnavailableError,
    UnknownOutcomeError,
)


class Kind(Enum):
    CONFLICT = auto()  # a unique index has the row already; the statement did nothing
    AGAIN = auto()  # deadlock or serialization: the transaction was rolled back and may be repeated
    LOCKED = auto()  # waited for a lock as long as was allowed
    REFUSED = auto()  # the server said no; the transaction is rolled back
    AWAY = auto()  # no connection could be made: nothing was sent
    LOST = auto()  # the connection broke while a statement was under way
    FULL = auto()  # no space
    KEY = auto()  # a key this database cannot hold


class StatementError(Exception):
    """A statement failed. The text has the server's reason, never a secret nor a value."""

    def __init__(self, kind: Kind, code: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code  # SQLSTATE or error number, for metrics

    def translated(self) -> DriverError:
        """What the store is told, of a statement that was no commit."""
        if self.kind is Kind.FULL:
            return NoSpaceError(str(self))
        if self.kind is Kind.KEY:
            return InvalidKeyError(str(self))
        return UnavailableError(str(self))

    def undecided(self) -> UnknownOutcomeError:
        return UnknownOutcomeError(f"the write's outcome could not be learnt: {self}")
