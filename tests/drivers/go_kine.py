"""Go kine, where its program is available: on the PATH, or named by KINE_TEST_GO_KINE."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.databases.process import free_port
from tests.servers.process import Instance
from tests.servers.process import start as start_process

if TYPE_CHECKING:
    from collections.abc import Mapping

_ELF = b"\x7fELF"


@cache
def binary() -> str:
    """The program; the kine of this tree has the same name, but is a script."""
    if named := os.environ.get("KINE_TEST_GO_KINE"):
        return named
    for folder in os.get_exec_path():
        path = Path(folder, "kine")
        if path.is_file() and path.read_bytes()[: len(_ELF)] == _ELF:
            return str(path)
    return ""


def missing() -> str:
    return "" if binary() else "no program of Go kine (go install github.com/k3s-io/kine@v0.17.5)"


def start_go_kine(
    endpoint: str,
    directory: Path,
    *,
    flags: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Instance:
    port = free_port()
    command = [
        binary(), f"--listen-address=127.0.0.1:{port}", f"--endpoint={endpoint}", "--metrics-bind-address=0",
        *flags,
    ]  # fmt: skip

    def serving(line: str) -> str | None:
        return f"127.0.0.1:{port}" if "Kine available at" in line else None

    return start_process(command, directory, serving, environment)
