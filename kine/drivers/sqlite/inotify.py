"""Notifications of writes to the database files (inotify(7)), so that an idle server need not poll.

Only in WAL mode: there all processes share memory, so all of them run on this machine. A notification is a
hint: reads still query the database, and the driver still polls it once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from time import monotonic

_MODIFY, _ATTRIB, _MOVE_SELF = 0x2, 0x4, 0x800  # sys/inotify.h; a file that is deleted changes an attribute
_EVENTS = 64 * 1024  # bytes: some thousand at once


class FileChanges:
    """Changes of one database's files. Unless `active`, `wait` only sleeps."""

    def __init__(self, path: str, pause: float) -> None:
        self._pause = pause  # seconds from one return of `wait` to the next, at least
        self._last = 0.0
        self._fd = _open_inotify(path) if os.path.exists(f"{path}-wal") else -1

    @property
    def active(self) -> bool:
        return self._fd >= 0

    async def wait(self, seconds: float) -> None:
        """Returns after a write that follows the last return, or after `seconds`."""
        pause = self._last + self._pause - monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        if self._fd >= 0:
            await self._event(seconds)
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, _EVENTS)
        elif seconds > self._pause:
            await asyncio.sleep(seconds - self._pause)
        self._last = monotonic()

    async def _event(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._fd, changed.set)
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_inotify(path: str) -> int:
    """A descriptor that becomes readable when one of the files changes; -1 if inotify is not available."""
    try:
        libc = ctypes.CDLL(None)
        fd = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    except (AttributeError, OSError):  # not Linux
        return -1
    if fd < 0:
        return -1
    for name in (path, f"{path}-wal"):
        if libc.inotify_add_watch(fd, os.fsencode(name), _MODIFY | _ATTRIB | _MOVE_SELF) < 0:
            os.close(fd)  # the system's limit, fs.inotify.max_user_watches
            return -1
    return fd
