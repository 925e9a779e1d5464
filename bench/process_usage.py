"""CPU and memory of the servers' processes, and the process that listens on a port."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of all processes of a server. CPU in seconds since they started, memory in bytes."""

    cpu: float
    rss: int


class Server:
    """The processes of one server: the given ones, and all their children."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.roots = [psutil.Process(pid) for pid in pids]

    def usage(self) -> Usage:
        """Current CPU and memory. An ended process is not included."""
        cpu, rss = 0.0, 0
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
                rss += process.memory_info().rss
        return Usage(cpu, rss)

    def commands(self) -> list[str]:
        """The command lines of the given processes; passwords in URLs are hidden."""
        found = []
        for process in self.roots:
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(hide_password(word) for word in process.cmdline()))
        return found

    def _all(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for root in self.roots:
            with contextlib.suppress(psutil.Error):
                found[root.pid] = root
                for child in root.children(recursive=True):
                    found[child.pid] = child
        return list(found.values())


def hide_password(word: str) -> str:
    """The word with the password between `//user:` and `@` replaced."""
    head, slashes, rest = word.partition("//")
    user, at, host = rest.rpartition("@")
    if not slashes or not at or ":" not in user:
        return word
    return f"{head}//{user.partition(':')[0]}:***@{host}"


def listening_on(endpoint: Endpoint) -> int | None:
    """The process that listens on the endpoint; None when it is unknown (another user's, or remote)."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("unix" if endpoint.path else "tcp"):
            address: Any = connection.laddr  # a path, or host and port
            if endpoint.path:
                here = address == os.path.abspath(endpoint.path)
            else:
                here = connection.status == psutil.CONN_LISTEN and address.port == endpoint.port
            if here and connection.pid:
                return connection.pid
    return None
