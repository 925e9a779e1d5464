"""Storage behind the instances of a run, a database's servers or a file, and the faults it can suffer."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tests.databases import mysql, nats, pgbouncer, postgres
from tests.databases.clock_shim import Shim
from tests.databases.clock_shim import missing as shim_missing
from tests.databases.loop_disk import Disk, parent_of
from tests.databases.loop_disk import missing as disk_missing
from tests.faults.dba_actions import of_file, of_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases.process import DatabaseServer

_MEBIBYTES = {"sqlite": 128, "postgres": 768, "postgres-pgbouncer": 768, "mysql": 768, "nats": 512}
_SLOW = 0.1  # seconds
_ELECTION = 6.0  # seconds: nodes wait for 4 to 9
_HISTORY = "revHistory=64"  # the traffic reads the past; dropped history has its own tests

Inflict = Callable[[int, float], None]  # a random number, seconds; returns once it is healed


class Behind(Protocol):
    @property
    def ports(self) -> Sequence[int]:
        """The ports it listens on; each instance has its own proxy in front of each."""

    @property
    def faults(self) -> dict[str, Inflict]:
        """The faults it can suffer, by kind."""

    @property
    def logs(self) -> Sequence[Path]:
        """The logs of its servers."""

    def endpoint(self, ports: Sequence[int]) -> str:
        """The endpoint for an instance that connects to these proxies' ports."""

    def stop(self) -> None: ...


def behind(kind: str, directory: Path, *, with_disk: bool = True) -> Behind:
    """Creates the storage for one run, which keeps what it has committed when it is killed."""
    disk = Disk(_MEBIBYTES[kind]) if with_disk and kind in _MEBIBYTES and not disk_missing() else None
    parent = parent_of(disk)
    slowed = Shim() if disk is not None and not shim_missing() else None
    environment = slowed.environment if slowed is not None else None
    if kind == "sqlite":
        return File(directory if disk is None else parent, disk)
    if kind in ("postgres", "postgres-pgbouncer"):
        settings = ("fsync=on", "max_wal_size=128MB", "min_wal_size=32MB") if disk is not None else ()
        server = postgres.Postgres(*settings, parent=parent, environment=environment)
        if kind == "postgres":
            return Database(server, disk, slowed)
        return Pooled(server, disk, slowed)
    if kind == "mysql":
        flush = "innodb-flush-log-at-trx-commit=1" if disk is not None else "innodb-flush-log-at-trx-commit=2"
        return Database(mysql.Mysql(flush, parent=parent, environment=environment), disk, slowed)
    if kind in ("nats", "nats-cluster"):
        if kind == "nats":
            return Nodes(nats.Nats(parent=parent), disk)
        return Nodes(nats.Nats(3, parent=parent, divisible=True), disk)
    if kind == "nats-embedded":
        return Nothing(f"nats://?dataDir={directory / 'nats'}&{_HISTORY}")
    if kind == "memory":
        return Nothing("memory://")
    raise ValueError(f"no faults for {kind}")


class Nothing:
    """No shared server: the instance's memory, or a server that the instance embeds."""

    ports: Sequence[int] = ()
    logs: Sequence[Path] = ()

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    @property
    def faults(self) -> dict[str, Inflict]:
        return {}

    def endpoint(self, ports: Sequence[int]) -> str:
        return self._endpoint

    def stop(self) -> None:
        pass


class File:
    """SQLite: one file that all instances open."""

    ports: Sequence[int] = ()
    logs: Sequence[Path] = ()

    def __init__(self, directory: Path, disk: Disk | None) -> None:
        self._path = directory / "state.db"
        self._disk = disk

    @property
    def faults(self) -> dict[str, Inflict]:
        return of_file(self._path) | _of_disk(self._disk, [])

    def endpoint(self, ports: Sequence[int]) -> str:
        return f"sqlite://{self._path}?_synchronous=FULL"

    def stop(self) -> None:
        if self._disk is not None:
            self._disk.close()


class Database:
    """PostgreSQL or MariaDB."""

    def __init__(
        self, server: postgres.Postgres | mysql.Mysql, disk: Disk | None, slowed: Shim | None
    ) -> None:
        self.server = server
        self.ports: Sequence[int] = (server.port,)
        self.logs: Sequence[Path] = (server.server.log,)
        self._database = server.new_database()
        self._disk = disk
        self._slowed = slowed

    @property
    def faults(self) -> dict[str, Inflict]:
        own = {
            "restart database": lambda _, __: self.server.restart(),
            "crash database": partial(_crash, [self.server.server]),
            "pause database": partial(_pause, [self.server.server]),
        }
        if self._slowed is not None:
            own["slow fsync"] = partial(slow_sync, [self._slowed])
        return own | of_server(self.server, self._database) | _of_disk(self._disk, [self.server.server])

    def endpoint(self, ports: Sequence[int]) -> str:
        return self.server.endpoint(self._database, port=ports[0])

    def stop(self) -> None:
        self.server.stop()
        if self._disk is not None:
            self._disk.close()


class Pooled(Database):
    """PostgreSQL behind PgBouncer in transaction mode."""

    def __init__(self, server: postgres.Postgres, disk: Disk | None, slowed: Shim | None) -> None:
        super().__init__(server, disk, slowed)
        self._pooler = pgbouncer.PgBouncer(server)
        self.ports = (self._pooler.port,)
        self.logs = (server.server.log, self._pooler.server.log)

    @property
    def faults(self) -> dict[str, Inflict]:
        pooler = [self._pooler.server]
        return super().faults | {
            "crash pooler": partial(_crash, pooler),
            "pause pooler": partial(_pause, pooler),
        }

    def stop(self) -> None:
        self._pooler.server.kill()
        super().stop()


class Nodes:
    """NATS, alone or three in a cluster."""

    def __init__(self, servers: nats.Nats, disk: Disk | None) -> None:
        self._nats = servers
        self.ports: Sequence[int] = servers.ports
        self.logs: Sequence[Path] = [server.log for server in servers.servers]
        self._bucket = servers.new_bucket()
        self._disk = disk

    @property
    def faults(self) -> dict[str, Inflict]:
        servers = self._nats.servers
        own = {
            "restart node": partial(_restart, servers),
            "crash node": partial(_crash, servers),
            "pause node": partial(_pause, servers),
        }
        if len(servers) > 1:
            own["isolate node"] = self._isolate
        return own | _of_disk(self._disk, servers, to_restart=servers)

    def _isolate(self, number: int, seconds: float) -> None:
        """Isolates a node for long enough that the others elect a new leader."""
        self._nats.isolate(number % len(self._nats.servers))
        time.sleep(_ELECTION + seconds)
        self._nats.join()

    def endpoint(self, ports: Sequence[int]) -> str:
        return self._nats.endpoint(self._bucket, ports=ports, parameters=_HISTORY)

    def stop(self) -> None:
        self._nats.stop()
        if self._disk is not None:
            self._disk.close()


def _restart(servers: Sequence[DatabaseServer], number: int, seconds: float) -> None:
    server = servers[number % len(servers)]
    server.stop(signal.SIGTERM)
    server.start()


def _crash(servers: Sequence[DatabaseServer], number: int, seconds: float) -> None:
    server = servers[number % len(servers)]
    server.kill()
    time.sleep(seconds)
    server.start()


def _pause(servers: Sequence[DatabaseServer], number: int, seconds: float) -> None:
    server = servers[number % len(servers)]
    server.suspend()
    time.sleep(seconds)
    server.resume()


def slow_sync(shims: Sequence[Shim], number: int, seconds: float) -> None:
    """Delays each fsync by a tenth of a second, for longer than other faults last, so that some occur."""
    for shim in shims:
        shim.slow_sync(_SLOW)
    time.sleep(2 * seconds)
    for shim in shims:
        shim.slow_sync(0)


def _of_disk(
    disk: Disk | None, servers: Sequence[DatabaseServer], *, to_restart: Sequence[DatabaseServer] = ()
) -> dict[str, Inflict]:
    if disk is None:
        return {}

    def fill(_: int, seconds: float) -> None:
        disk.fill()
        time.sleep(seconds)
        disk.free()
        for server in to_restart:  # a NATS server neither recovers nor ends at SIGTERM
            server.kill()
        for server in servers:  # some exit on a full disk
            if not server.running:
                server.start()

    return {"fill disk": fill, "freeze disk": lambda _, seconds: disk.freeze(seconds)}
