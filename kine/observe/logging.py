"""Structured logging to stderr, one line a record, as logfmt (`time=… level=… msg=…`) or JSON.

Modules use Python's logging, with structured fields in addition to the message:

    log = logging.getLogger(__name__)
    log.warning("slow SQL", extra=fields(name="append", seconds=1.2))

A hot path checks `log.isEnabledFor(logging.DEBUG)` first. Code must not log secrets; `redact` is the last
line of defence. Control characters are escaped, so that a key or a header sent by a client cannot forge a
line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MASK = "***"

# Clients choose part of what is logged. The text is bounded, and so is each repetition in the patterns below,
# so that no text makes them run for longer than some milliseconds.
MAX_TEXT = 16 * 1024  # characters of one message, field or stack

# Patterns of secrets, each with its replacement.
PATTERNS: Sequence[tuple[re.Pattern[str], str]] = (
    # Private keys, NATS seeds and tokens in PEM-like armour; up to the end if the closing line is missing.
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,32}(PRIVATE KEY|SEED|JWT)-----"
            r".*?(-----{1,2}END [A-Z0-9 ]{0,32}\1-----{1,2}|\Z)",
            re.DOTALL,
        ),
        f"-----BEGIN \\1----- {MASK}",
    ),
    # X-Amz-Signature=…, X-Amz-Security-Token=…, and the credential's scope.
    (re.compile(r"(?i)\b(X-Amz-(?:Signature|Security-Token|Credential))=[^\s&\"']+"), rf"\1={MASK}"),
    (re.compile(r"(?i)(authorization[\"']?\s?[:=]\s?[\"']?)(?:\w{1,32}\s)?[^\s\"']+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(Bearer)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {MASK}"),
    # password=…, "sslpassword": "…", secret-key: …
    (
        re.compile(
            r"(?i)((?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key)[\w.-]{0,32}"
            r"[\"']?\s{0,2}[=:]\s{0,2})(?!\*\*\*)"
            r"(\"(?:[^\"\\]|\\.){0,1024}\"|'(?:[^'\\]|\\.){0,1024}'|[^\s&,;\"')}]+)"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b"), MASK),  # NATS seeds
)
# Every pattern needs one of these. Almost no line has one, and this one search costs far less.
HINTS = re.compile(
    r"(?i)-----BEGIN|@|X-Amz-|bearer|authorization|passw|passphrase|pwd|secret|token|key|eyJ"
    r"|\bS[ACNOUX][A-Z2-7]{56}"
)
WORD = re.compile(r"[^\s\"'<>]+")
# Placeholders in kine's own hints, which are not masked: the user part is exactly one of these.
_PLACEHOLDER = re.compile(r"(?:[^:@]{0,64}://)?(?:USER:PASSWORD|USER|TOKEN)@")

# Names of fields that hold a secret, whatever their value looks like.
SECRET_NAMES = re.compile(
    r"(?i)password|passwd|passphrase|pwd|secret|token|credential|authorization|(endpoint|dsn)$"
    r"|(api|access|private)[_-]?key"
)

LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
BARE = re.compile(r"[A-Za-z0-9._/@^+:\-\[\]*]+")


def fields(**values: object) -> dict[str, Mapping[str, object]]:
    """Structured fields for a log call's `extra=`."""
    return {"fields": values}


def redact(text: str, known: Sequence[str] = ()) -> str:
    """The text with everything that looks like a secret, and every known secret, masked; cut if very long."""
    for secret in known:
        text = text.replace(secret, MASK)
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "..."
    if HINTS.search(text) is None:
        return text
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return WORD.sub(_word, text)


def _word(found: re.Match[str]) -> str:
    """Masks a URL's user part, and a JSON web token."""
    word = found[0]
    at = word.rfind("@")
    if at >= 0 and not _PLACEHOLDER.fullmatch(word, 0, at + 1):
        # To the last @: a password may hold any unescaped character.
        scheme = word.find("://", 0, at)
        if scheme >= 0:
            return f"{word[: scheme + 3]}{MASK}{word[at:]}"
        # The Go MySQL driver's user:password@tcp(host).
        if word.startswith(("tcp(", "unix("), at + 1):
            return f"{MASK}{word[at:]}"
    token = word.find("eyJ")
    return f"{word[:token]}{MASK}" if token >= 0 and word.count(".", token) >= 2 else word


_SCHEMES = re.compile(
    r"[A-Za-z0-9+]*:?/{0,2}(,[A-Za-z0-9+]*:?/{0,2})*"
)  # a scheme without an address is no secret, and part of many messages
_NAMED_USERS = ("postgres://", "postgresql://", "mysql://")


def secrets_of(endpoint: str) -> list[str]:
    """The secrets in an endpoint: the endpoint itself, and its password, as written and percent-decoded.

    A plain path stays readable, and so does a password of under four characters: masking it would garble
    every line, and no filter makes it a secret.
    """
    _, separator, rest = endpoint.partition("://")
    found = [part for part in (endpoint, *endpoint.split(",")) if separator and not _SCHEMES.fullmatch(part)]
    for url in (rest or endpoint).split(","):
        user, at, _ = url.rpartition("@")
        user = user.rpartition("://")[2]  # each of several addresses may have its scheme
        # NATS takes a token where others have a user.
        password = user.partition(":")[2] or ("" if endpoint.startswith(_NAMED_USERS) else user)
        if at:
            found += [password, unquote(password)]
    return list(longest_first(secret for secret in found if len(secret) >= 4))


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """The order for masking: if one secret begins another and is masked first, the rest stays readable."""
    return tuple(sorted(set(secrets), key=len, reverse=True))


def escape(text: str) -> str:
    """The text with control characters, line separators and lone surrogates escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) < 0x20 else f"\\u{ord(character):04x}"


class _Formatter(logging.Formatter):
    def __init__(self, known: Sequence[str] = (), always: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.known = longest_first(known)
        self.always = dict(always or {})

    def entries(self, record: logging.LogRecord) -> dict[str, Any]:
        """The record's fields with secrets masked; numbers, booleans and None keep their type."""
        named: Mapping[str, object] = getattr(record, "fields", {})
        entries = self.always | {name: self.clean(name, value) for name, value in named.items()}
        if record.exc_info:
            entries["stack"] = redact(self.formatException(record.exc_info), self.known)
        return entries

    def clean(self, name: str, value: object) -> object:
        if SECRET_NAMES.search(name):
            return MASK
        if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
            return value
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        return redact(text, self.known)

    def message(self, record: logging.LogRecord) -> str:
        return redact(record.getMessage(), self.known)


class Plain(_Formatter):
    """logfmt: `time="…" level=info msg="…" name=value`, as logrus writes it without a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            f'time="{timestamp(record)}" level={LEVELS.get(record.levelno, "info")}',
            f"msg={_bare_or_quoted(self.message(record))}",
        ]
        parts += [f"{name}={_bare_or_quoted(str(value))}" for name, value in self.entries(record).items()]
        return " ".join(parts)


class Json(_Formatter):
    """JSON for Google's structured logging (https://cloud.google.com/logging/docs/structured-logging)."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = self.entries(record)
        line.update(
            severity=LEVELS.get(record.levelno, "info"), message=self.message(record), time=timestamp(record)
        )
        return json.dumps(line, default=str)


def timestamp(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


def _bare_or_quoted(text: str) -> str:
    if BARE.fullmatch(text):
        return text
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def configure(
    form: str = "plain",
    *,
    debug: bool = False,
    hide: Sequence[str] = (),
    stream: TextIO | None = None,
    always: Mapping[str, object] | None = None,
) -> None:
    """Logs kine's records, and warnings of libraries, to stderr.

    `hide` are secrets to mask wherever they occur, `always` the fields of every line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json(hide, always) if form == "json" else Plain(hide, always))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries may log data of a client or a database as details: warnings and up only.
    root.setLevel(logging.WARNING)
    logging.getLogger("kine").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)
