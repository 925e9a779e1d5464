"""Several instances on one database, each behind its own proxies, and the operations on them."""

from __future__ import annotations

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.databases import clock_shim
from tests.databases.proxy_process import ProxyProcess
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases.clock_shim import Shim
    from tests.faults.backing_services import Behind
    from tests.servers import Backend
    from tests.servers.process import Instance


@dataclass
class Cluster:
    backend: Backend
    directory: Path
    size: int
    behind: Behind
    instances: dict[int, Instance] = field(default_factory=dict)
    proxies: list[ProxyProcess] = field(default_factory=list)
    shims: list[Shim] = field(default_factory=list)  # of the instances, each its own; none where none can be
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        if self.behind.ports:
            self.proxies = [ProxyProcess(*self.behind.ports) for _ in range(self.size)]
        if not clock_shim.missing():
            self.shims = [clock_shim.Shim() for _ in range(self.size)]
        self.start_instance(0)  # creates the tables or the bucket
        with ThreadPoolExecutor(self.size) as pool:
            list(pool.map(self.start_instance, range(1, self.size)))

    def start_instance(self, number: int) -> None:
        endpoint = self.behind.endpoint(self.proxies[number].ports if self.proxies else ())
        instance = start_kine(
            endpoint,
            self.backend.transport or "http2",
            self.directory,
            progress_interval=0.5,
            environment=self.shims[number].environment if self.shims else None,
        )
        with self._lock:
            self.instances[number] = instance

    def take(self, number: int) -> Instance:
        """Removes an instance from those that clients use."""
        with self._lock:
            return self.instances.pop(number)

    def numbers(self) -> list[int]:
        with self._lock:
            return sorted(self.instances)

    def address(self, number: int) -> str:
        with self._lock:
            instance = self.instances.get(number)
            return instance.address if instance is not None else ""

    def close(self) -> None:
        for instance in self.instances.values():
            instance.resume()
            instance.kill()
        for proxy in self.proxies:
            proxy.close()
        for log in self.behind.logs:  # which may be gone with a disk
            with contextlib.suppress(OSError):
                shutil.copy(log, self.directory / f"database-{log.name}")
        self.behind.stop()
