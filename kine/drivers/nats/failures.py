"""What a NATS server says has gone wrong, by its error codes (nats-server, server/errors.json)."""

from __future__ import annotations

from typing import Any

from kine.drivers.base import DriverError, InvalidKeyError, NoSpaceError, UnavailableError

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
BATCH_OFF = 10174
BATCH_TOO_LARGE = 10199
_CONFLICTS = {10071, 10164}
# Account, stream and server limits. 10077 is any refusal of the stream's store, which its text tells.
_FULL = {10002, 10023, 10028, 10047}
_STORE_FAILED = 10077
_TOO_LARGE = {10054, 10097}
_AGAIN = {10008, 10009, 10167, 10211}  # no leader at the moment, or too much under way


class RefusedError(Exception):
    """The server answered, and it is a no. Nothing of the request was applied."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def conflict(self) -> bool:
        return self.code in _CONFLICTS

    @property
    def again(self) -> bool:
        return self.code in _AGAIN

    @property
    def full(self) -> bool:
        if "no space left on device" in str(self):  # ENOSPC, under any code
            return True
        return self.code in _FULL or (self.code == _STORE_FAILED and "maximum" in str(self))

    def translated(self) -> DriverError:
        if self.full:
            return NoSpaceError("the NATS stream, or the account or server it is on, is full")
        if self.code in _TOO_LARGE:
            return InvalidKeyError("the value is larger than this NATS server or stream takes in one message")
        if self.code == STREAM_NOT_FOUND:
            return UnavailableError(
                "the NATS bucket does not exist any more; restore it from a backup, or restart kine to"
                " begin with an empty one"
            )
        return UnavailableError(f"the NATS server refused it (error {self.code})")


class LostError(Exception):
    """No answer: the connection went, or the time was up. What was asked for may have happened."""


class NobodyError(Exception):
    """Nobody listens there: no JetStream, no leader, or no such stream. Nothing was applied."""


def refusal(error: dict[str, Any]) -> RefusedError:
    return RefusedError(int(error.get("err_code") or error.get("code") or 0), str(error.get("description")))
