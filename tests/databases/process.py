"""Process of a database server, with the directory and the user it runs with."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

from tests.cleanup_at_exit import ENDINGS
from tests.process_reaper import end_with_this_process

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 12_000
_random = SystemRandom()  # tests may seed the global one
_claims: list[socket.socket] = []  # abstract socket names, which are released when this process ends


def free_port() -> int:
    """A port that no other test process gets until this process ends, whether it is in use or not.

    It lies below the ephemeral ports, which the system gives to clients and for port 0: a server that is
    started later, or again, still finds it free.
    """
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 0
    if first <= _LOWEST_PORT:  # not Linux, or nothing lies below
        return _bindable(0)
    while True:
        port = _random.randrange(_LOWEST_PORT, first)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0kine-tests-port-{port}")
            _bindable(port)
        except OSError:  # claimed by another process, of this run or of another, or in use
            claim.close()
        else:
            _claims.append(claim)
            return port


def _bindable(port: int) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def unprivileged(name: str) -> str | None:
    """The user to run as, since database servers refuse root. None: the current user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


def directory(prefix: str, user: str | None, parent: Path = Path("/tmp")) -> Path:
    """Creates a directory that this user owns; it is removed at the end of the run."""
    path = Path(tempfile.mkdtemp(prefix=f"kine-{prefix}-", dir=parent))
    path.chmod(0o755)
    if user:
        shutil.chown(path, user)
    ENDINGS.callback(shutil.rmtree, path, ignore_errors=True)
    return path


@dataclass(slots=True)
class DatabaseServer:
    command: Sequence[str]
    user: str | None
    log: Path
    answers: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self.user,
                start_new_session=True,
                cwd="/tmp",
                env={**os.environ, **self.environment},
            )
        ENDINGS.callback(self.kill)
        end_with_this_process(self.process.pid)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(
            f"{self.command[0]} did not start:\n{self.log.read_text(errors='replace')[-2000:]}"
        )

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Sends the signal and waits for the exit; sends SIGKILL after a timeout."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:  # seen once, with PostgreSQL 15 after SIGQUIT
                self.kill()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def suspend(self) -> None:
        """Sends SIGSTOP to the server and its child processes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Sends SIGKILL to the server and its child processes."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP_TIMEOUT)


def answers_on(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return True
    except OSError:
        return False
