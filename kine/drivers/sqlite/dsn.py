"""`sqlite://PATH?parameters`, with the parameters that Go kine's SQLite driver takes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

DEFAULT_PATH = "./db/state.db"

_SYNCHRONOUS = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}
_CHOICES = {
    "synchronous": ("OFF", "NORMAL", "FULL", "EXTRA"),
    "journal_mode": ("WAL", "DELETE", "TRUNCATE", "PERSIST"),
    "txlock": ("IMMEDIATE", "DEFERRED", "EXCLUSIVE"),
    "cache": ("SHARED", "PRIVATE"),
    "mode": ("RWC", "RW"),
}
_SHORT = {"sync": "synchronous", "journal": "journal_mode", "timeout": "busy_timeout"}
_SWITCHES = (
    "kine_disable_startup_vacuum",
    "kine_disable_wal_autocheckpoint",
    "kine_disable_compact_wal_checkpoint",
)


@dataclass(frozen=True, slots=True)
class Dsn:
    path: str
    journal_mode: str = "WAL"
    synchronous: str = "NORMAL"
    busy_timeout: float = 30.0  # seconds
    cache_size: int | None = None  # as PRAGMA cache_size: pages, or KiB when negative
    create: bool = True
    startup_vacuum: bool = True
    wal_autocheckpoint: bool = True
    compact_wal_checkpoint: bool = True


def parse(endpoint: str) -> Dsn:
    """Raises ValueError naming the parameter that is unknown or has no such value."""
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        scheme, rest = "sqlite", endpoint
    path, _, query = rest.partition("?")
    path = unquote(path.removeprefix("file:")) or DEFAULT_PATH
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        key = name.removeprefix("_")
        values[_SHORT.get(key, key)] = value
    switches = {name: values.pop(name, "0") not in ("0", "false") for name in _SWITCHES}
    mode = _choice(values, "mode", "RWC")
    dsn = Dsn(
        path=path,
        journal_mode=_choice(values, "journal_mode", "WAL"),
        synchronous=_choice(values, "synchronous", "NORMAL"),
        busy_timeout=_integer(values, "busy_timeout", 30_000) / 1000,
        cache_size=_integer(values, "cache_size", 0) or None,
        create=mode == "RWC",
        startup_vacuum=scheme != "litestream" and not switches["kine_disable_startup_vacuum"],
        wal_autocheckpoint=scheme != "litestream" and not switches["kine_disable_wal_autocheckpoint"],
        compact_wal_checkpoint=scheme != "litestream" and not switches["kine_disable_compact_wal_checkpoint"],
    )
    if scheme == "litestream" and dsn.journal_mode != "WAL":
        raise ValueError(
            "litestream:// needs _journal_mode=WAL, which is the default: leave the parameter out"
        )
    # Written in many DSNs, without effect here: every write transaction is immediate, connections share no
    # page cache, and statements are cached anyway.
    for name in ("txlock", "cache"):
        _choice(values, name, "")
    _integer(values, "stmt_cache_size", 0)
    if values:
        known = sorted([*_CHOICES, "busy_timeout", "cache_size", "stmt_cache_size", *_SWITCHES])
        raise ValueError(
            f"unknown SQLite parameter {', '.join(sorted(map(repr, values)))} in the endpoint;"
            f" known (a leading _ may be written) are {', '.join(known)}"
        )
    return dsn


def _choice(values: dict[str, str], name: str, default: str) -> str:
    value = values.pop(name, default).upper()
    if name == "synchronous":
        value = _SYNCHRONOUS.get(value, value)
    if value != default and value not in _CHOICES[name]:
        raise ValueError(
            f"SQLite parameter {name!r} in the endpoint must be one of {', '.join(_CHOICES[name])}"
        )
    return value


def _integer(values: dict[str, str], name: str, default: int) -> int:
    value = values.pop(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise ValueError(f"SQLite parameter {name!r} in the endpoint must be a whole number") from None
