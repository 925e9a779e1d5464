"""Environments of consumers: the installed package, the executable in a musl root and in an empty one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.executable import BUSYBOX, MUSL, Mount, Root, empty_root, executable, missing, musl_root
from tests.servers.kine import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(slots=True)
class Place:
    """Paths named by a consumer are below `top`; inside a root the program sees them unchanged."""

    kind: str
    top: Path
    root: Root | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def outside(self, path: str) -> Path:
        return self.top / path.lstrip("/")

    def inside(self, path: str) -> str:
        return path if self.root else str(self.outside(path))

    def directory(self, path: str, owner: int = 0, group: int = 0, mode: int = 0o755) -> None:
        made = self.outside(path)
        made.mkdir(parents=True, exist_ok=True)
        if self.root:
            os.chown(made, owner, group)
        made.chmod(mode)

    def stage(self, path: str) -> None:
        """Installs the executable file alone, as a consumer copies it."""
        if self.root:
            self.root.install(executable(), path)

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        directory: str = "/",
        user: int = 65534,
        group: int = 65534,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        if self.root:
            mounts = [Mount("proc", "/proc")] if self.kind == "musl" else []
            return self.root.start(
                [program, *arguments],
                directory=directory,
                user=user,
                group=group,
                environment=environment,
                mounts=mounts,
            )
        process = subprocess.Popen(
            [sys.executable, "-m", "kine", *arguments],
            cwd=self.outside(directory),
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


_IN_A_ROOT = [pytest.mark.engines, pytest.mark.timeout(600)]
IMAGE_TESTS = [
    *_IN_A_ROOT,
    pytest.mark.skipif(
        bool(missing()) or os.geteuid() != 0 or not BUSYBOX.exists(),
        reason="needs root, busybox-static, and what builds the executable",
    ),
]


@pytest.fixture
def image() -> Iterator[Root]:
    """The image's root directory."""
    with tempfile.TemporaryDirectory(prefix="kine-", dir="/var/tmp") as path, empty_root(Path(path)) as root:
        subprocess.run(["sh", ROOT / "release" / "image.sh", path, executable()], check=True)
        yield root


@pytest.fixture(
    params=["package", pytest.param("musl", marks=_IN_A_ROOT), pytest.param("empty", marks=_IN_A_ROOT)]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind = request.param
    # Short because of socket paths, and below no directory that others can write except /var/tmp.
    with ExitStack() as until, tempfile.TemporaryDirectory(prefix="kine-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        if kind == "package":
            made = Place(kind, top)
            until.callback(made.end)
        else:
            if (
                missing()
                or os.geteuid() != 0
                or (kind == "musl" and not (MUSL.exists() and BUSYBOX.exists()))
            ):
                pytest.skip(missing() or "needs root, musl and busybox-static")
            made = Place(kind, top, until.enter_context((musl_root if kind == "musl" else empty_root)(top)))
        yield made
