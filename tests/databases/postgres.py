"""PostgreSQL server with a superuser and a password."""

from __future__ import annotations

import glob
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import psycopg

from tests.databases.process import DatabaseServer, answers_on, directory, free_port, unprivileged

_numbers = count(1)


@cache
def binaries() -> Path | None:
    """The directory of the server's programs, which Debian keeps out of the PATH."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("postgres")
    return Path(path).parent if path else None


def missing() -> str:
    return "" if binaries() else "no PostgreSQL server (bash tests/install.sh)"


class Postgres:
    """A server with one superuser `postgres`, password `secret`."""

    def __init__(
        self, *settings: str, parent: Path = Path("/tmp"), environment: Mapping[str, str] | None = None
    ) -> None:
        user = unprivileged("postgres")
        self.directory = directory("postgres", user, parent)
        self.port = free_port()
        data = self.directory / "data"
        password = self.directory / "password"
        password.write_text("secret\n")
        programs = binaries()
        assert programs is not None
        subprocess.run(
            [
                programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256",
                "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd="/tmp",
        )  # fmt: skip
        settings = ("listen_addresses=127.0.0.1", "fsync=off", "max_connections=100", *settings)
        self.server = DatabaseServer(
            [
                str(programs / "postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.directory),
                *(part for setting in settings for part in ("-c", setting)),
            ],
            user,
            self.directory / "log",
            self._answers,
            environment or {},
        )  # fmt: skip
        self.server.start()

    def _answers(self) -> bool:
        if not answers_on(self.port):
            return False
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password="secret",
            dbname=database,
            autocommit=True,
        )

    def new_database(self) -> str:
        """The name of an unused database, which does not exist yet: kine creates it."""
        return f"kine{next(_numbers)}"

    def endpoint(self, database: str, *, port: int | None = None, parameters: str = "") -> str:
        return f"postgres://postgres:secret@127.0.0.1:{port or self.port}/{database}?{parameters}"

    def restart(self) -> None:
        self.server.stop(signal.SIGINT)  # fast shutdown: rolls back open transactions
        self.server.start()

    def crash(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop(signal.SIGQUIT)


def start_trusting(user: str) -> Postgres:
    """A server on which `user`, who may create databases, needs no password: the gate in front checks it."""
    server = Postgres()
    (server.directory / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
    with server.admin() as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(f"CREATE ROLE {user} LOGIN CREATEDB")
    return server


@contextmanager
def trusting(user: str) -> Iterator[Postgres]:
    server = start_trusting(user)
    try:
        yield server
    finally:
        server.stop()
