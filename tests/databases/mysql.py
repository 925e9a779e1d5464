"""MariaDB server, or MySQL where that is installed instead."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pymysql

from tests.databases.process import DatabaseServer, answers_on, directory, free_port, unprivileged

_numbers = count(1)


@cache
def binary() -> str:
    return shutil.which("mariadbd") or shutil.which("mysqld", path="/usr/sbin:/usr/local/sbin:/usr/bin") or ""


def missing() -> str:
    return "" if binary() else "no MariaDB or MySQL server (bash tests/install.sh)"


class Mysql:
    """A server with one user `root`, password `secret`."""

    def __init__(
        self, *settings: str, parent: Path = Path("/tmp"), environment: Mapping[str, str] | None = None
    ) -> None:
        user = unprivileged("mysql")
        self.directory = directory("mysql", user, parent)
        self.port = free_port()
        data = self.directory / "data"
        account = [f"--user={user}"] if user else []
        first = self.directory / "first.sql"
        first.write_text(
            "ALTER USER root@localhost IDENTIFIED BY 'secret';\n"
            "CREATE USER IF NOT EXISTS root@'127.0.0.1';\n"
            "ALTER USER root@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        if "maria" in binary():
            install = [
                "mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--tmpdir={self.directory}",
                "--skip-test-db", "--auth-root-authentication-method=normal", *account,
            ]  # fmt: skip
        else:
            install = [binary(), "--no-defaults", "--initialize-insecure", f"--datadir={data}", *account]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")
        command = [
            binary(), "--no-defaults", f"--datadir={data}", f"--port={self.port}", "--bind-address=127.0.0.1",
            f"--socket={self.directory}/socket", f"--pid-file={self.directory}/pid",
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
            "--skip-name-resolve", f"--tmpdir={self.directory}",
            *account, *(f"--{setting}" for setting in settings),
        ]  # fmt: skip
        self.server = DatabaseServer(command, None, self.directory / "log", self._answers, environment or {})
        self.server.command = [*command, f"--init-file={first}"]
        self.server.start()
        self.server.command = command

    def _answers(self) -> bool:
        if not answers_on(self.port):
            return False
        try:
            self.admin().close()
        except pymysql.MySQLError:
            return False
        return True

    def admin(self, database: str | None = None) -> pymysql.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            password="secret",
            database=database,
            autocommit=True,
        )

    def new_database(self) -> str:
        """The name of an unused database, which does not exist yet: kine creates it."""
        return f"kine{next(_numbers)}"

    def endpoint(self, database: str, *, port: int | None = None, parameters: str = "") -> str:
        return f"mysql://root:secret@tcp(127.0.0.1:{port or self.port})/{database}?{parameters}"

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def crash(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.kill()
