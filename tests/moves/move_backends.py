"""Backends to move between: started, emptied, filled to the limit, stopped and restored."""

from __future__ import annotations

import shutil
import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING

from tests.client import Client
from tests.databases import mysql, nats, postgres
from tests.databases.loop_disk import Disk, parent_of
from tests.databases.process import free_port, unprivileged
from tests.drivers import go_kine
from tests.moves.kubernetes_view import PAGE, PREFIX, prefix_end
from tests.servers import etcd
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

_ROWS = "SELECT count(*) FROM kine"


class Place(ABC):
    """One database, or one etcd. `disk`: a small disk of its own for its data."""

    exact = True  # a move to it preserves versions and create revisions
    revisions = True  # and mod revisions
    serves = False  # it is itself a server, without kine
    tells_leases = True
    refuses_a_part = True  # no server serves from it until the move is complete
    streams = True  # lists
    page = PAGE

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self.directory = directory
        self.disk = disk
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    @abstractmethod
    def endpoint(self) -> str: ...

    @abstractmethod
    def held(self) -> int:
        """The approximate number of its rows or keys; 0 if they cannot be counted now."""

    def served(self, *flags: str) -> Instance:
        return start_kine(self.endpoint, "http2", self.directory / "serving", flags=flags)

    def prepare(self) -> None:  # noqa: B027 - most have nothing to be made before
        """Prepares it as the target of a move."""

    def crash(self) -> None:  # noqa: B027 - a file needs nothing
        """Kills the server behind the endpoint."""

    def restart(self) -> None:  # noqa: B027
        """Starts it again, if it does not run."""

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()


class SqlitePlace(Place):
    @cached_property
    def _path(self) -> Path:
        return (self.disk.path if self.disk else self.directory) / "state.db"

    @property
    def endpoint(self) -> str:
        return f"sqlite://{self._path}"

    def held(self) -> int:
        if not self._path.exists():
            return 0
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
                return int(connection.execute(_ROWS).fetchone()[0])
        except sqlite3.Error:
            return 0


class SqlServerPlace(Place):
    """A database on its own server."""

    @property
    @abstractmethod
    def _server(self) -> postgres.Postgres | mysql.Mysql: ...

    @property
    @abstractmethod
    def _database(self) -> str: ...

    @property
    def endpoint(self) -> str:
        return self._server.endpoint(self._database)

    def crash(self) -> None:
        self._server.crash()

    def restart(self) -> None:
        if not self._server.server.running:
            self._server.start()

    def close(self) -> None:
        self._server.stop()
        super().close()


class PostgresPlace(SqlServerPlace):
    """PostgreSQL, with the server's own log not on the small disk: it would exit if it could not write it."""

    @cached_property
    def _server(self) -> postgres.Postgres:
        return postgres.Postgres()

    @cached_property
    def _database(self) -> str:
        name = self._server.new_database()
        if self.disk is not None:
            place = self.disk.path / "tablespace"
            place.mkdir(mode=0o700)
            if user := unprivileged("postgres"):
                shutil.chown(place, user)
            with closing(self._server.admin()) as admin:
                admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
                admin.execute(f"CREATE DATABASE {name} TABLESPACE small")
        return name

    def held(self) -> int:
        try:
            with closing(self._server.admin(self._database)) as admin:
                found = admin.execute(_ROWS).fetchone()
                return int(found[0]) if found else 0
        except Exception:  # there is no table yet, or no server
            return 0


class MysqlPlace(SqlServerPlace):
    settings: tuple[str, ...] = ()

    @cached_property
    def _server(self) -> mysql.Mysql:
        return mysql.Mysql(*self.settings, parent=parent_of(self.disk))

    @cached_property
    def _database(self) -> str:
        return self._server.new_database()

    def held(self) -> int:
        try:
            with closing(self._server.admin(self._database)) as admin, admin.cursor() as cursor:
                cursor.execute(_ROWS)
                return int(cursor.fetchone()[0])
        except Exception:  # there is no table yet, or no server
            return 0


class NatsPlace(Place):
    revisions = False

    @cached_property
    def _server(self) -> nats.Nats:
        return nats.Nats(parent=parent_of(self.disk))

    @cached_property
    def _bucket(self) -> str:
        return self._server.new_bucket()

    @property
    def endpoint(self) -> str:
        return self._server.endpoint(self._bucket)

    def held(self) -> int:
        try:
            found = self._server.api(f"STREAM.INFO.KV_{self._bucket}")
            return int(found.get("state", {}).get("messages", 0))  # type: ignore[attr-defined]
        except Exception:
            return 0

    def crash(self) -> None:
        self._server.servers[0].kill()

    def restart(self) -> None:
        if not self._server.servers[0].running:
            self._server.servers[0].start()

    def close(self) -> None:
        self._server.stop()
        super().close()


class EtcdPlace(Place):
    """An etcd on a port that stays the same."""

    exact = revisions = False
    serves = True
    streams = etcd.version() >= (3, 7)

    @cached_property
    def _port(self) -> int:
        return free_port()

    @cached_property
    def _instances(self) -> list[Instance]:
        return [self._start()]

    def _start(self) -> Instance:
        url = f"http://127.0.0.1:{self._port}"
        flags = (f"--listen-client-urls={url}", f"--advertise-client-urls={url}")
        return etcd.start(self.disk.path if self.disk else self.directory, flags=flags)

    @property
    def endpoint(self) -> str:
        return f"http://{self._instances[-1].address}"

    def held(self) -> int:
        try:
            with Client(f"127.0.0.1:{self._port}", timeout=2) as client:
                return int(client.range(PREFIX, prefix_end(PREFIX), count_only=True).count)
        except Exception:
            return 0

    def served(self, *flags: str) -> Instance:
        return self._instances[-1]

    def crash(self) -> None:
        """Stops an etcd that a kill may cost acknowledged writes (etcd issues 13766 and 14370)."""
        running = self._instances[-1]
        if etcd.version() >= (3, 5, 5):
            running.kill()
        else:
            running.stop()

    def restart(self) -> None:
        if not self._instances[-1].running:
            self._instances.append(self._start())

    def close(self) -> None:
        if self._instances[-1].running:
            self._instances[-1].kill()
        super().close()


class _Go(Place):
    """The database of a real Go kine, which creates the table, fills a source, and serves moved data."""

    exact = False
    tells_leases = False
    refuses_a_part = False
    page = 20 * PAGE  # for each page Go kine reads the whole range

    def prepare(self) -> None:
        self.served().stop()

    def served(self, *flags: str) -> Instance:
        return go_kine.start_go_kine(self.endpoint, self.directory / "go", flags=flags)


class GoSqlitePlace(_Go, SqlitePlace):
    @property
    def endpoint(self) -> str:
        """The endpoint with the parameters of Go kine's default one.

        Go kine does not apply them to a path without them: it would not wait for another's lock, and would
        report that a create has succeeded whose INSERT failed because of that.
        """
        defaults = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate"
        return f"sqlite://{self._path}?{defaults}&_stmt_cache_size=20&cache=shared"


class GoPostgresPlace(_Go, PostgresPlace):
    @property
    def endpoint(self) -> str:
        return self._server.endpoint(self._database, parameters="sslmode=disable")


class GoMysqlPlace(_Go, MysqlPlace):
    pass


PLACES: dict[str, type[Place]] = {
    "sqlite": SqlitePlace,
    "postgres": PostgresPlace,
    "mysql": MysqlPlace,
    "nats": NatsPlace,
    "etcd": EtcdPlace,
    "go-sqlite": GoSqlitePlace,
    "go-postgres": GoPostgresPlace,
    "go-mysql": GoMysqlPlace,
}


def missing(kind: str) -> str:
    database = kind.removeprefix("go-")
    why = go_kine.missing() if database != kind else ""
    return (
        why
        or {"postgres": postgres.missing, "mysql": mysql.missing, "nats": nats.missing}.get(
            database, etcd.missing if database == "etcd" else str
        )()
    )
