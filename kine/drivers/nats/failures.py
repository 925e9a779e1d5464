"""NATS errors, by the server's error codes (nats-server, server/errors.json)."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import Any

import nats.errors

from kine.drivers.base import DriverError, NoSpaceError, TooLargeError, UnavailableError

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
MESSAGE_NOT_FOUND = 10037
BATCH_OFF = 10174
BATCH_TOO_LARGE = 10199
MAXIMUM_BYTES = 10047
_CONFLICTS = {10071, 10164}
# Account, stream and server limits. 10077 is any error of the stream's store: its text says which.
_FULL = {10002, 10023, 10028, 10047}
_STORE_FAILED = 10077
_TOO_LARGE = {10054, 10097}
_DENIED = 403  # kine's own: a permissions violation is no API response, and has no code
_DENIAL = re.compile(r'permissions violation for (publish|subscription) to "(.*?)"', re.IGNORECASE)
_AGAIN = {10008, 10009, 10167, 10211}  # no leader at the moment, or too many requests in flight

_ADVICE = {
    _DENIED: "let the user publish to $JS.API.> and $KV.>, and subscribe to _INBOX.> and $KV.>",
    10027: "raise the account's limit on streams, or remove one",
    10035: "turn JetStream on for this account, in the server's configuration",
    10039: "turn JetStream on for this account, in the server's configuration",
    10074: "lower replicas in the endpoint, or run more servers",
    10076: "turn JetStream on in the server's configuration",
}


class NatsRefusedError(Exception):
    """The server answered with an error. Nothing of the request was applied."""

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
            return TooLargeError("the value is larger than this NATS server or stream takes in one message")
        if self.code == STREAM_NOT_FOUND:
            return UnavailableError(
                "the NATS bucket does not exist any more; restore it from a backup, or restart kine to"
                " begin with an empty one"
            )
        advice = _ADVICE.get(self.code)
        said = f"the NATS server refused it: {self}"
        if self.code != _DENIED:
            said += f" (error {self.code})"
        return UnavailableError(f"{said}; {advice}" if advice else said)


class DeniedError(NatsRefusedError):
    """A permissions violation: the user may not publish or subscribe to the subject."""

    def __init__(self, kind: str, subject: str) -> None:
        super().__init__(_DENIED, f'permissions violation for {kind} to "{subject}"')
        self.publishing = kind == "publish"
        self.subject = subject  # in lower case, as nats-py reports it
        self._kind = kind

    def about(self, subject: str) -> DeniedError:
        """The same error with the subject's original case."""
        return DeniedError(self._kind, subject)


class UnansweredError(UnavailableError):
    """No answer came in time, for an unknown reason."""


class LostError(Exception):
    """No answer: the connection was lost, or the request timed out. It may have been applied."""

    def __init__(self, denied: DeniedError | None = None) -> None:
        super().__init__()
        self._denied = denied  # of this request, or of another one to the same subject

    def translated(self) -> DriverError:
        return self._denied.translated() if self._denied else UnansweredError("NATS did not answer in time")


class NoRespondersError(Exception):
    """The subject has no responders: no JetStream, no leader, or no such stream. Nothing was applied."""


def refusal(error: dict[str, Any]) -> NatsRefusedError:
    return NatsRefusedError(
        int(error.get("err_code") or error.get("code") or 0), str(error.get("description"))
    )


def denial(said: str) -> DeniedError | None:
    """The DeniedError for an asynchronous -ERR of the server; None if it is another error."""
    found = _DENIAL.search(said)
    return DeniedError(found[1].lower(), found[2].lower()) if found else None


# Error texts of the server or of nats-py for a failed connection, and advice.
_UNCONNECTED = tuple(
    (re.compile(words, re.IGNORECASE), advice)
    for words, advice in (
        ("authorization|authentication|nkey|jwt|credential", "correct the endpoint's user and password, token"
         " or credsFile, or allow the user in the server's configuration"),
        ("secure connection|tls required", "the server takes connections over TLS only: give --ca-file (and"
         " --cert-file and --key-file, if it asks for a certificate)"),
        ("maximum connections", "raise the server's max_connections, or that of the account"),
    )
)  # fmt: skip
_TLS = "give the CA that signed the server's certificate (--ca-file), and the name that is in it as the host"
_THERE = "check that it runs, and the endpoint's host and port"


def unconnected(error: Exception) -> UnavailableError:
    """The UnavailableError for a failed connection, with the reason and advice."""
    said = reason(error)
    advice = _TLS if isinstance(error, ssl.SSLError) else _THERE
    for words, known in _UNCONNECTED:
        if words.search(said):
            advice = known
    return UnavailableError(f"no connection to NATS ({said}); {advice}")


def reason(error: Exception) -> str:
    """The error as text: nats-py has no types for the server's errors."""
    if isinstance(error, nats.errors.Error) and str(error):
        return str(error)[:100].removeprefix("nats: ").strip("'")
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "verify_message", "") or error.reason or type(error).__name__)
    if isinstance(error, OSError) and error.errno is not None:
        return (
            error.strerror
            if isinstance(error, socket.gaierror) and error.strerror
            else os.strerror(error.errno)
        )
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return type(error).__name__
