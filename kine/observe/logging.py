"""Logs on stderr, one line a record, as text (`time=… level=… msg=…`) or JSON.

Modules log as everywhere in Python, with fields beside the message:

    log = logging.getLogger(__name__)
    log.warning("slow SQL", extra=fields(name="append", seconds=1.2))

A hot path asks `log.isEnabledFor(logging.DEBUG)` first. Secrets are kept out by whoever writes a
message; `redact` is the last line of defence. Control characters are escaped, so a key or a header sent
by a client cannot forge a line.
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

# A client may choose part of what is logged: what is looked at is bounded, and so is each repetition below,
# so that no text makes the patterns run for longer than some milliseconds.
MAX_TEXT = 16 * 1024  # characters of one message, field or stack

# Each is a pattern and what stands in its place.
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
# Every pattern needs one of these; almost no line has one, and looking for them costs far less.
HINTS = re.compile(
    r"(?i)-----BEGIN|@|X-Amz-|bearer|authorization|passw|passphrase|pwd|secret|token|key|eyJ"
    r"|\bS[ACNOUX][A-Z2-7]{56}"
)
WORD = re.compile(r"[^\s\"'<>]+")
# What our own hints have in a secret's place: the user part is this and nothing else.
_PLACEHOLDER = re.compile(r"(?:[^:@]{0,64}://)?(?:USER:PASSWORD|USER|TOKEN)@")

# A field so named holds a secret, whatever it looks like.
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
    """For `extra=`: named values beside the message."""
    return {"fields": values}


def redact(text: str, known: Sequence[str] = ()) -> str:
    """The text with everything that looks like a secret, and every known one, masked; cut if very long."""
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
    """URLs without their user part, and no JSON web token."""
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
)  # alone: no secret, and in many a message
_NAMED_USERS = ("postgres://", "postgresql://", "mysql://")


def secrets_of(endpoint: str) -> list[str]:
    """What of an endpoint must never be shown: the whole of it, and its password as written and as meant.

    A plain path is left readable, and so is a password of under four characters: masking it would
    garble every line, and no filter makes it a secret.
    """
    _, separator, rest = endpoint.partition("://")
    found = [part for part in (endpoint, *endpoint.split(",")) if separator and not _SCHEMES.fullmatch(part)]
    for url in (rest or endpoint).split(","):
        user, at, _ = url.rpartition("@")
        user = user.rpartition("://")[2]  # of several addresses, each may have its scheme
        # NATS takes a token where others have a user.
        password = user.partition(":")[2] or ("" if endpoint.startswith(_NAMED_USERS) else user)
        if at:
            found += [password, unquote(password)]
    return list(longest_first(secret for secret in found if len(secret) >= 4))


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """The order to mask them in: after one that begins another, the other's rest would be left to read."""
    return tuple(sorted(set(secrets), key=len, reverse=True))


def escape(text: str) -> str:
    """The text with control characters, line separators and lone surrogates written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) < 0x20 else f"\\u{ord(character):04x}"


class _Formatter(logging.Formatter):
    def __init__(self, known: Sequence[str] = (), always: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.known = longest_first(known)
        self.always = dict(always or {})

    def entries(self, record: logging.LogRecord) -> dict[str, Any]:
        """The record's fields, clean of secrets; values that JSON has are kept as they are."""
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
    """logfmt: `time="…" level=info msg="…" name=value`, as logrus writes it where there is no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            f'time="{timestamp(record)}" level={LEVELS.get(record.levelno, "info")}',
            f"msg={_bare_or_quoted(self.message(record))}",
        ]
        parts += [f"{name}={_bare_or_quoted(str(value))}" for name, value in self.entries(record).items()]
        return " ".join(parts)


class Json(_Formatter):
    """Google's structured logging (https://cloud.google.com/logging/docs/structured-logging)."""

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
    """Sends kine's records, and others' warnings, to stderr.

    `hide` are secrets known by their text, `always` the fields of every line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json(hide, always) if form == "json" else Plain(hide, always))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries' own details may hold what a client or a database sent: warnings and up only.
    root.setLevel(logging.WARNING)
    logging.getLogger("kine").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)
