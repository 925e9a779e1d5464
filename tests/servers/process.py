"""Server process: started, watched until it serves, stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from tests import secret_scan
from tests.process_reaper import end_with_this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_TIMEOUT = 60.0  # generous, for a busy machine
STOP_TIMEOUT = 30.0

_log_numbers = count(1)


class StartError(Exception):
    """The process exited, or timed out, before it served."""


@dataclass(slots=True)
class Instance:
    """A running server. `address` is where clients connect; `directory` holds its data."""

    address: str
    directory: Path
    log: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Sends SIGKILL: the process gets no chance to finish anything."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code. A process that ignores it is killed and fails the test."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None


def start(
    command: Sequence[str],
    directory: Path,
    serving: Callable[[str], str | None],
    environment: Mapping[str, str] | None = None,
) -> Instance:
    """Runs `command` with its output in its own log file, until a line has the address.

    `serving` parses each line and returns the address the server says it serves at, or None.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"server-{next(_log_numbers)}.log"
    secret_scan.started(command, environment or {}, log)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **(environment or {})},
        )
    end_with_this_process(process.pid)
    address = _await_address(process, log, serving)
    if address is None:
        process.kill()
        process.wait(STOP_TIMEOUT)
        tail = log.read_text(errors="replace")[-3000:]
        raise StartError(f"{command[0]} did not serve (exit code {process.returncode}):\n{tail}")
    secret_scan.look_at_arguments(command, process.pid)
    return Instance(address, directory, log, process)


def _await_address(
    process: subprocess.Popen[bytes], log: Path, serving: Callable[[str], str | None]
) -> str | None:
    deadline = time.monotonic() + START_TIMEOUT
    with log.open(errors="replace") as lines:
        line = ""
        while time.monotonic() < deadline:
            line += lines.readline()
            if line.endswith("\n"):
                address = serving(line)
                if address is not None:
                    return address
                line = ""
            elif process.poll() is not None:
                return None
            else:
                time.sleep(0.01)
    return None
