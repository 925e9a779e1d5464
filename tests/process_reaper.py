"""Reaper that kills the servers of a test run once the run has ended, however it ended.

A killed pytest closes no server. Each test process has one child, this program, which holds the read end of a
pipe. The test process writes the id of each server it starts; when the pipe ends, the test process is gone,
and those of its servers that still run are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_reapers: dict[int, subprocess.Popen[bytes]] = {}  # by the process that started them: a fork has its own


def end_with_this_process(pid: int) -> None:
    """Registers a server to be killed, with its group if it leads one, once this process has ended."""
    if os.getpid() not in _reapers:
        _reapers[os.getpid()] = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True
        )
    pipe = _reapers[os.getpid()].stdin
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):
        pipe.write(f"{pid}\n".encode())
        pipe.flush()


def _started(pid: int) -> str:
    """The start time of the process, in ticks since boot, which tells reused ids apart. Empty: no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a group: the servers are to go after their run
    began: dict[int, str] = {}
    for line in sys.stdin:
        began[int(line)] = _started(int(line))
    for pid, start in began.items():
        if start and _started(pid) == start:
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
