"""Description of the machine on which a run was made."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

SYNCS = 64


def describe(directory: Path | None = None) -> dict[str, Any]:
    """CPU, memory, kernel, versions, load, and the cost of an fsync in `directory`."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in ("protobuf", "grpcio", "hpack")},
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "fsync_seconds": fsync_cost(directory),
    }


def fsync_cost(directory: Path | None = None) -> float:
    """Median seconds to append 4 KiB and fdatasync it."""
    block = os.urandom(4096)
    taken = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            started = perf_counter()
            file.write(block)
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(perf_counter() - started)
    return median(taken)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
