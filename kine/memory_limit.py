"""The memory limit of this process, from the machine and its control groups (cgroups(7))."""

from __future__ import annotations

import os
from pathlib import Path


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or a control group's limit if lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _memory_limits(root):
        try:
            written = file.read_text().strip()
        except OSError:
            continue
        if written.isdigit():  # else "max"
            total = min(total, int(written))
    return total


def _memory_limits(root: Path) -> list[Path]:
    """The files that may limit this process: of its control group and its ancestors, cgroup v1 and v2."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    files = [groups / "memory.max", groups / "memory/memory.limit_in_bytes"]
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, group = named.partition(":")
        own = Path(group.lstrip("/"))
        for part in (own, *own.parents):
            if controllers == "":
                files.append(groups / part / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(groups / "memory" / part / "memory.limit_in_bytes")
    return files
