"""LD_PRELOAD shim that steps the wall clock and slows the fsyncs of a running process.

The shared object is compiled here. It does not affect programs that make their system calls directly, as
those written in Go do.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

from tests.databases.process import directory

_SOURCE = Path(__file__).with_suffix(".c")


@cache
def missing() -> str:
    if shutil.which("gcc") is None:
        return "no C compiler (bash tests/install.sh)"
    try:
        _library()
    except subprocess.CalledProcessError:
        return "a shared object cannot be compiled here"
    return ""


@cache
def _library() -> Path:
    path = directory("shim", None) / "shim.so"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", path, _SOURCE, "-ldl"],
        check=True,
        capture_output=True,
    )
    return path


class Shim:
    """Settings that one or several preloaded processes read. Initially nothing is changed."""

    def __init__(self) -> None:
        self._file = directory("told", None) / "file"
        self._clock = self._sync = 0.0
        self._write()
        self.environment = {"LD_PRELOAD": str(_library()), "KINE_TEST_SHIM": str(self._file)}

    def step_clock(self, seconds: float) -> None:
        """Sets the offset of the wall clock in seconds; monotonic clocks are not affected."""
        self._clock = seconds
        self._write()

    def slow_sync(self, seconds: float) -> None:
        """Makes each fsync and fdatasync take this many seconds longer."""
        self._sync = seconds
        self._write()

    def _write(self) -> None:
        told = struct.pack("=qq", int(self._clock * 1e9), int(self._sync * 1e9))
        file = os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.pwrite(file, told, 0)
        finally:
            os.close(file)
