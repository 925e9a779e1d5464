"""DSN of SQLite endpoints: `sqlite://PATH?parameters`.

The parameters are those of Go kine's SQLite drivers (mattn/go-sqlite3, modernc.org/sqlite). A parameter with
a meaning here is honoured, one without is named in a warning, and one that would endanger the data is
refused. As in Go, the first of several values counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote

DEFAULT_PATH = "./db/state.db"

_SHORT = {
    "cslike": "case_sensitive_like",
    "defer_fk": "defer_foreign_keys",
    "fk": "foreign_keys",
    "journal": "journal_mode",
    "locking": "locking_mode",
    "rt": "recursive_triggers",
    "sync": "synchronous",
    "timeout": "busy_timeout",
    "vacuum": "auto_vacuum",
}
_SWITCHES = (
    "kine_disable_startup_vacuum",
    "kine_disable_wal_autocheckpoint",
    "kine_disable_compact_wal_checkpoint",
    "kine_disable_reserve",
)
_BOOLEAN = {"0": "OFF", "NO": "OFF", "FALSE": "OFF", "1": "ON", "YES": "ON", "TRUE": "ON"}
_ON_OFF = ("OFF", "ON")
_CHOICES: dict[str, tuple[str, ...]] = {
    "auto_vacuum": ("NONE", "FULL", "INCREMENTAL"),
    "immutable": _ON_OFF,
    "journal_mode": ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"),
    "mode": ("RWC", "RW", "RO", "MEMORY"),
    "nolock": _ON_OFF,
    "query_only": _ON_OFF,
    "secure_delete": ("OFF", "ON", "FAST"),
    "synchronous": ("OFF", "NORMAL", "FULL", "EXTRA"),
    "vfs": ("UNIX", "UNIX-EXCL", "UNIX-DOTFILE", "UNIX-NONE", "MEMDB"),
}
_NUMBERED = {
    "auto_vacuum": {"0": "NONE", "1": "FULL", "2": "INCREMENTAL"},
    "synchronous": {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"},
}
_DANGERS = {
    ("journal_mode", "MEMORY"): "a process that is killed would leave the file damaged; leave it out",
    ("journal_mode", "OFF"): "a statement that fails would leave the file damaged; leave it out",
    ("immutable", "ON"): "kine writes to the file; leave it out",
    ("mode", "RO"): "kine writes to the file; leave it out",
    ("nolock", "ON"): "connections that do not lock the file damage it; leave it out",
    ("query_only", "ON"): "kine writes to the file; leave it out",
    ("vfs", "UNIX-DOTFILE"): "processes that lock the file in different ways damage it; leave it out",
    ("vfs", "UNIX-NONE"): "connections that do not lock the file damage it; leave it out",
}
# `journal_mode(WAL)` and `journal_mode=WAL`, as modernc's `_pragma` takes them.
_PRAGMA = re.compile(r"\s*(\w+)\s*(?:\(\s*(.*?)\s*\)|=\s*(.*?))?\s*")


@dataclass(frozen=True, slots=True)
class Dsn:
    path: str
    memory: bool = False  # in memory: there is no file
    journal_mode: str = "WAL"
    synchronous: str = "NORMAL"
    busy_timeout: float = 30.0  # seconds
    cache_size: int | None = None  # as PRAGMA cache_size: pages, or KiB when negative
    secure_delete: str = ""  # as PRAGMA secure_delete; empty: as SQLite was built
    auto_vacuum: Literal["", "NONE", "FULL", "INCREMENTAL"] = ""  # for a new file
    create: bool = True
    startup_vacuum: bool = True
    wal_autocheckpoint: bool = True
    compact_wal_checkpoint: bool = True
    reserve: bool = True  # of the disk: see `kine.drivers.sqlite.disk_reserve`
    warnings: tuple[str, ...] = ()  # for the user of this endpoint


def parse(endpoint: str) -> Dsn:
    """Parses an endpoint. Raises ValueError, which names a parameter and never repeats the endpoint."""
    scheme, separator, rest = endpoint.partition("://")
    if not separator and endpoint:
        raise ValueError("the endpoint has no scheme; write it as sqlite://PATH")
    written, _, query = rest.partition("?")
    path, is_uri = _path(written)
    values = _values(query)
    litestream = scheme == "litestream"
    switches = {name: values.pop(name, "0") not in ("0", "false") for name in _SWITCHES}
    chosen = {name: value for name in _CHOICES if (value := _choice(values, name))}
    memory = path == ":memory:" or chosen.get("vfs") == "MEMDB" or (is_uri and chosen.get("mode") == "MEMORY")
    ignored = ["mode"] if chosen.get("mode") == "MEMORY" and not memory else []
    if not memory:
        for (name, value), reason in _DANGERS.items():
            if chosen.get(name) == value:
                raise ValueError(f"SQLite parameter {name!r} in the endpoint must not be {value}: {reason}")
    if litestream and (memory or chosen.get("journal_mode", "WAL") != "WAL"):
        raise ValueError(
            "litestream:// needs a file and _journal_mode=WAL, which is the default: leave the parameter out"
        )
    busy_timeout = _integer(values, "busy_timeout", 30_000) / 1000
    cache_size = _integer(values, "cache_size", 0) or None
    _integer(values, "stmt_cache_size", 0)
    return Dsn(
        path=path,
        memory=memory,
        journal_mode=chosen.get("journal_mode", "WAL"),
        synchronous=chosen.get("synchronous", "NORMAL"),
        busy_timeout=busy_timeout,
        cache_size=cache_size,
        secure_delete=chosen.get("secure_delete", ""),
        auto_vacuum=chosen.get("auto_vacuum", ""),  # type: ignore[arg-type] # one of these
        create=chosen.get("mode") != "RW",
        startup_vacuum=not litestream and not switches["kine_disable_startup_vacuum"],
        wal_autocheckpoint=not litestream and not switches["kine_disable_wal_autocheckpoint"],
        compact_wal_checkpoint=not litestream and not switches["kine_disable_compact_wal_checkpoint"],
        reserve=not switches["kine_disable_reserve"],
        warnings=_warnings(chosen, [*values, *ignored], memory=memory),
    )


def _path(written: str) -> tuple[str, bool]:
    """Returns the path, and whether it was a `file:` URI of SQLite: only there `%20` is a space."""
    if not written.startswith("file:"):
        if "://" in written:
            raise ValueError(
                "the endpoint has two schemes; leave out the first for another database than SQLite"
            )
        return written or DEFAULT_PATH, False
    path = written.removeprefix("file:")
    if path.startswith("//"):
        host, slash, path = path.removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise ValueError("the endpoint's file: URI must not name a host; write it as file:/PATH")
        path = slash + path
    return unquote(path) or DEFAULT_PATH, True


def _values(query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    pragmas: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        key = name.removeprefix("_")
        if key == "pragma":
            if not (pragma := _PRAGMA.fullmatch(value)):
                raise ValueError("SQLite parameter '_pragma' in the endpoint must be like busy_timeout(5000)")
            pragmas.setdefault(pragma[1].lower(), (pragma[2] or pragma[3] or "").strip("'\""))
        else:
            values.setdefault(_SHORT.get(key, key), value)
    return pragmas | values


def _choice(values: dict[str, str], name: str) -> str:
    value = values.pop(name, "").upper()
    value = _NUMBERED.get(name, {}).get(value, value)
    if "ON" in _CHOICES[name]:
        value = _BOOLEAN.get(value, value)
    if value and value not in _CHOICES[name]:
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


def _warnings(chosen: dict[str, str], without_effect: list[str], *, memory: bool) -> tuple[str, ...]:
    found = []
    if chosen.get("vfs") == "UNIX-EXCL":
        without_effect = [*without_effect, "vfs"]
    if without_effect:
        names = ", ".join(sorted(name[:40] for name in without_effect))
        found.append(f"these parameters of the endpoint have no effect: {names}")
    if memory:
        found.append("the endpoint names a database in memory: everything is lost when kine stops")
    elif chosen.get("synchronous") == "OFF":
        found.append("synchronous=OFF in the endpoint: a power failure can damage the file or lose writes")
    return tuple(found)
