"""The standalone executable of this tree, rebuilt when its inputs change, and root directories to run in."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tests.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
MUSL = Path("/lib/ld-musl-x86_64.so.1")
BUSYBOX = Path("/bin/busybox")
NOBODY = 65534

_MS_RDONLY, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 8, 32, 4096, 16384, 1 << 18
_CLONE_NEWNS = 0x20000


def missing() -> str:
    """The reason why it cannot be built here; empty if it can."""
    for tool in ("gcc", "readelf", "strip", "zstd"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return "this Python has no shared library"
    if sys.platform != "linux":
        return "not Linux"
    return ""


def _sources() -> Iterator[Path]:
    for directory, pattern in (("kine", "**/*.py"), ("release/executable", "*")):
        yield from sorted(path for path in (ROOT / directory).glob(pattern) if path.is_file())
    yield ROOT / "pyproject.toml"


def build(output: Path) -> None:
    """Builds it with a fixed release number, so that a commit alone changes nothing."""
    command = [sys.executable, str(ROOT / "release/executable/build.py"), str(output), "--level", "1"]
    environment = {**os.environ, "KINE_VERSION": "v0.0.0.test.0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def executable() -> Path:
    """The executable, rebuilt if the sources or packages have changed; KINE_TEST_EXECUTABLE names another.

    It is compressed less than a release is: its size is measured on releases.
    """
    if given := os.environ.get("KINE_TEST_EXECUTABLE"):
        return Path(given)
    made_of = hashlib.sha256()
    for path in _sources():
        made_of.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    for one in sorted(f"{each.name}=={each.version}" for each in metadata.distributions()):
        made_of.update(one.encode())
    return built_once("executable", f"kine-{made_of.hexdigest()[:16]}", build)


def built_once(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The file `build/KIND/NAME`, which `make` writes if it is missing; older ones are deleted."""
    directory = ROOT / "build" / kind
    directory.mkdir(parents=True, exist_ok=True)
    built = directory / name
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            for old in directory.iterdir():
                if old.name != "lock":
                    old.unlink()
            make(Path(f"{built}.new"))
            Path(f"{built}.new").rename(built)
    return built


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount in the root, visible only to programs started in it. `source`: tmpfs, proc, or a directory."""

    source: str
    target: str
    options: str = ""  # tmpfs' own, such as size=64m
    noexec: bool = False


@dataclass(slots=True)
class Root:
    """A root directory in which programs are started as another user."""

    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
        user: int = NOBODY,
        group: int = NOBODY,
        mounts: Sequence[Mount] = (),
        read_only: bool = False,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None, use_errno=True)

        def called(answer: int) -> None:
            if answer != 0:
                raise OSError(ctypes.get_errno(), "mounting for a test")

        def enter() -> None:
            if mounts or read_only:
                called(libc.unshare(_CLONE_NEWNS))
                called(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
                here = str(self.path).encode()
                if read_only:
                    called(libc.mount(here, here, None, _MS_BIND | _MS_REC, None))
                    called(libc.mount(None, here, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY, None))
                for mount in mounts:
                    target = str(self.path / mount.target.lstrip("/")).encode()
                    flags = _MS_NOEXEC if mount.noexec else 0
                    if mount.source.startswith("/"):
                        called(libc.mount(mount.source.encode(), target, None, _MS_BIND, None))
                    else:
                        kind = mount.source.encode()
                        called(libc.mount(kind, target, kind, flags, mount.options.encode()))
            os.chroot(self.path)
            os.chdir(directory)
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)

        process = subprocess.Popen(
            command,
            env=dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            preexec_fn=enter,
        )
        self.started.append(process)
        return process

    def run(self, command: Sequence[str], **options: object) -> tuple[int, str, str]:
        process = self.start(command, **options)  # type: ignore[arg-type]
        output, errors = process.communicate(timeout=120)
        return process.returncode, output.decode(), errors.decode()

    def directory(self, name: str, owner: int = 0, mode: int = 0o755) -> Path:
        path = self.path / name.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    def install(self, source: Path, name: str) -> None:
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o755)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@contextlib.contextmanager
def empty_root(path: Path) -> Iterator[Root]:
    """An empty root, as of a scratch image."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    root = Root(path)
    try:
        yield root
    finally:
        root.end()


@contextlib.contextmanager
def musl_root(path: Path) -> Iterator[Root]:
    """A root like Alpine's: musl as C library, busybox, no glibc."""
    with empty_root(path) as root:
        root.install(MUSL.resolve(), "/lib/ld-musl-x86_64.so.1")
        root.install(BUSYBOX, "/bin/busybox")
        for name in ("sh", "cp", "chmod", "cat", "ls"):
            (path / "bin" / name).symlink_to("busybox")
        root.directory("/tmp", mode=0o1777)
        root.directory("/proc")
        root.directory("/etc")
        (path / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        yield root


def address(process: subprocess.Popen[bytes]) -> str:
    """The address at which it serves, once it does; fails with its log if it does not."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.decode())
        if "Kine available at" in lines[-1]:
            return lines[-1].rpartition("://")[2].strip().strip('"')
    raise AssertionError("".join(lines))


def put_and_get(where: str) -> None:
    with Client(where) as client:
        client.put(b"/a", b"1")
        found = client.get(b"/a")
    assert found is not None
    assert found.value == b"1"
