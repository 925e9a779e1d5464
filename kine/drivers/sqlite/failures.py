"""Translation of SQLite's errors by code: damage, lock, missing permission, full disk."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat

from kine.drivers.base import DriverError, NoSpaceError, TooLargeError, UnavailableError

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_NO_RIGHT = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_LETTERS = ((os.R_OK, "r"), (os.W_OK, "w"), (os.X_OK, "x"))
_LEAST_FREE = 1 << 20  # bytes; with fewer an input/output error means a full disk


class LockedError(UnavailableError):
    """Another process has the file locked: a retry may succeed."""


class DamagedError(UnavailableError):
    """The file is a damaged SQLite database."""


def translated(error: sqlite3.Error, path: str) -> DriverError:
    """Returns the error for the user: the file, its owner where that matters, and the remedy."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_full(path)):
        return NoSpaceError(f"no space left for {path}")
    if code == sqlite3.SQLITE_TOOBIG:
        return TooLargeError(f"SQLite: {error}")
    if code in _DAMAGED:
        return DamagedError(damage(path, str(error)))
    if code in _LOCKED:
        return LockedError(f"another process keeps {path} locked")
    if code in _NO_RIGHT:
        return UnavailableError(no_access(path) or f"cannot open or write {path}: {error} ({name})")
    if code == sqlite3.SQLITE_IOERR:
        return UnavailableError(f"cannot read or write {path}: {error} ({name}); check the disk")
    return UnavailableError(f"SQLite: {error} ({name})")


def damage(path: str, detail: str) -> str:
    text = (
        f"{path} is damaged ({detail}); restore it from a backup, or save what can be read with"
        f" `sqlite3 {path} .recover | sqlite3 recovered.db` and start on that"
    )
    found = stale_log(path)
    return f"{text}. {found}" if found else text


def stale_log(path: str) -> str:
    """Explains what a log file next to a damaged database may mean; empty if there is none."""
    if not file_size(f"{path}-wal"):
        return ""
    return (
        f"{path}-wal is there, too: if {path} was restored or copied without it, the log belongs to"
        f" another database; move {path}-wal and {path}-shm away and start again"
    )


def no_access(path: str) -> str:
    """Names the first of the database's files that this process may not use, and its owner; empty if none."""
    folder = os.path.dirname(path) or "."
    for found in (folder, path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        if not os.path.lexists(found):
            if found == folder:
                return (
                    f"the directory {folder} does not exist; create it, or name another path in the endpoint"
                )
            continue
        if found == folder and not os.path.isdir(found):
            return f"{folder} is no directory; name another path in the endpoint"
        if found != folder and os.path.isdir(found):
            return f"{found} is a directory; name a file in the endpoint"
        wanted = os.R_OK | os.W_OK | (os.X_OK if found == folder else 0)
        if not os.access(found, wanted, effective_ids=os.access in os.supports_effective_ids):
            return f"cannot write {found}: {_reason(found, wanted)}"
    return ""


def _reason(path: str, wanted: int) -> str:
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return "its file system is read-only; mount it for writing"
        found = os.stat(path)
    except OSError as error:
        return f"{error.strerror}; run kine as a user that may use it"
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid():
        lacking = wanted & ~(mode >> 6)
        letters = "".join(letter for bit, letter in _LETTERS if lacking & bit)
        if not letters:
            return f"its mode {mode:04o} allows it; look for an immutable flag (lsattr) or a security policy"
        return f"it is this user's own, with mode {mode:04o}; run chmod u+{letters} {path}"
    return (
        f"it belongs to {_user(found.st_uid)} (mode {mode:04o}) and kine runs as {_user(os.geteuid())};"
        f" run kine as that user, or give the file and its directory to this one with chown"
    )


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # most containers have no user name for the uid
        return f"uid {uid}"


def file_size(path: str) -> int:
    """Bytes; 0 if there is no such file."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _disk_full(path: str) -> bool:
    try:
        disk = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LEAST_FREE
