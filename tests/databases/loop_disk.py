"""Small loop-device file system for a database: it can be filled, frozen, and lose its power."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.cleanup_at_exit import ENDINGS
from tests.databases.process import directory

_IMAGE = "image"
_FILLER = "filler"
_BLOCK = 4096


@cache
def missing() -> str:
    if os.geteuid() != 0:
        return "only root may mount a disk"
    if absent := [name for name in ("mkfs.ext4", "mount", "fsfreeze") if shutil.which(name) is None]:
        return f"no {', '.join(absent)}"
    try:
        Disk(16).close()
    except subprocess.CalledProcessError:
        return "a loop device cannot be mounted here"
    return ""


class Disk:
    """A file system on a loop device, mounted at `path`. Its image is sparse."""

    def __init__(self, mebibytes: int) -> None:
        self._directory = directory("disk", None)
        self.path = self._directory / "mounted"
        self.path.mkdir()
        self._image = image = self._directory / _IMAGE
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        # Block size = page size, as on real disks: SQLite maps a file into memory, and relies on it.
        _run("mkfs.ext4", "-q", "-m", "0", "-b", str(_BLOCK), "-E", "lazy_itable_init=1", str(image))
        self._mount()
        self.path.chmod(0o755)
        self._mounted = True
        ENDINGS.callback(self.close)

    def fill(self, leaving: int = 0) -> None:
        """Fills the disk until `leaving` bytes are free, by default less than a block."""
        file = os.open(self.path / _FILLER, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            size = os.fstat(file).st_size
            step = self._free() - leaving
            while step >= _BLOCK:
                try:
                    os.posix_fallocate(file, size, step)
                    size += step
                    step = min(step, self._free() - leaving) if leaving else step
                except OSError:
                    step //= 2
        finally:
            os.close(file)

    def _free(self) -> int:
        return os.statvfs(self.path).f_bavail * _BLOCK

    def free(self) -> None:
        (self.path / _FILLER).unlink(missing_ok=True)

    def freeze(self, seconds: float) -> None:
        """Blocks writes and fsyncs for `seconds`. A separate process thaws the disk, should this one die."""
        script = 'fsfreeze -f "$1"; sleep "$2"; fsfreeze -u "$1"'
        subprocess.run(["sh", "-c", script, "-", self.path, str(seconds)], check=True, start_new_session=True)

    def lose_power(self) -> None:
        """Reduces the disk to what had reached it, without what the system still had in memory.

        Every process that wrote to it must have been killed.
        """
        reached = self._directory / "reached"
        _run("cp", "--sparse=always", str(self._image), str(reached))
        _run("umount", "--lazy", str(self.path))  # later writes go to the old image
        reached.replace(self._image)
        self._mount()

    def _mount(self) -> None:
        # The journal is written on fsync, and hardly ever automatically.
        _run("mount", "-o", "loop,commit=300", str(self._image), str(self.path))

    def close(self) -> None:
        """Unmounts the disk. The processes that wrote to it should have ended."""
        if self._mounted:
            self._mounted = False
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("umount", "--lazy", str(self.path))
            shutil.rmtree(self._directory, ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def parent_of(disk: Disk | None) -> Path:
    """The parent directory for a database's files."""
    return disk.path if disk is not None else Path("/tmp")
