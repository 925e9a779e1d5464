"""Rewrites a source archive so that its bytes depend on its contents alone: repack.py ARCHIVE SECONDS."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path


def repack(archive: Path, seconds: int) -> None:
    """Sorts members by name, and sets one time (`seconds` since 1970), no owner, and plain modes."""
    packed = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            contents = old.extractfile(member) if member.isfile() else None
            member.pax_headers = {}
            member.mtime, member.uid, member.gid, member.uname, member.gname = seconds, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, contents)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=seconds) as zipped:
        zipped.write(packed.getvalue())


if __name__ == "__main__":
    repack(Path(sys.argv[1]), int(sys.argv[2]))
