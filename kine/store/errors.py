"""Errors of the store: its own, and those of the log that it passes on."""

from __future__ import annotations

from kine.drivers.base import (
    BehindError,
    BusyError,
    DriverError,
    InvalidKeyError,
    NoSpaceError,
    OutOfRevisionsError,
    RefusedError,
    TooLargeError,
    UnavailableError,
    UnknownOutcomeError,
)

__all__ = [
    "AnswerTooLargeError",
    "BehindError",
    "BusyError",
    "CompactedError",
    "DriverError",
    "DuplicateKeyError",
    "FutureRevisionError",
    "InvalidKeyError",
    "KeyNotFoundError",
    "LeaseExistsError",
    "LeaseNotFoundError",
    "NoSpaceError",
    "OutOfRevisionsError",
    "RefusedError",
    "ReservedKeyError",
    "StoreError",
    "TimedOutError",
    "TooLargeError",
    "TooManyLeasesError",
    "TooManyRequestsError",
    "TooMuchWorkError",
    "UnavailableError",
    "UnknownOutcomeError",
]


class StoreError(Exception):
    """A request that cannot be served; the class says why."""


class CompactedError(StoreError):
    def __init__(self, compact_revision: int) -> None:
        super().__init__("required revision has been compacted")
        self.compact_revision = compact_revision


class FutureRevisionError(StoreError):
    pass


class LeaseNotFoundError(StoreError):
    pass


class LeaseExistsError(StoreError):
    pass


class TooManyLeasesError(StoreError):
    """As many leases are granted as the settings allow."""


class KeyNotFoundError(StoreError):
    """ignore_value or ignore_lease on a key that does not exist."""


class ReservedKeyError(StoreError):
    """The key's name is that of rows the server keeps for another key."""


class DuplicateKeyError(StoreError):
    """Two operations of one transaction change one key."""


class TooManyRequestsError(StoreError):
    """The queue of writes is full."""


class AnswerTooLargeError(StoreError):
    """The answer would exceed the limit on bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer would take more than {limit} bytes: ask for fewer keys at once")


class TooMuchWorkError(StoreError):
    """A transaction's compares and deletes look at too many keys."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the ranges that the transaction compares and deletes hold more than {limit} keys, "
            "each whose value is compared counted thrice: make several transactions of it"
        )


class TimedOutError(StoreError):
    """The database did not let the request through in time; it may or may not have been applied."""
