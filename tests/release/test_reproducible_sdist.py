"""A source archive has the same bytes at any time and for any builder."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "release" / "repack.py"


def archive(path: Path, names: list[str], mtime: float, owner: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname, member.mode = len(name), mtime, owner, 0o664
            tar.addfile(member, io.BytesIO(name.encode()))
    subprocess.run([sys.executable, SCRIPT, path, "1700000000"], check=True)
    return path


def test_two_archives_of_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    one = archive(tmp_path / "one.tar.gz", ["b", "a"], 1.5, "ada")
    two = archive(tmp_path / "two.tar.gz", ["a", "b"], 99.25, "bob")

    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        assert [(m.name, m.mtime, tar.extractfile(m).read()) for m in tar.getmembers()] == [  # type: ignore[union-attr]
            ("a", 1700000000, b"a"),
            ("b", 1700000000, b"b"),
        ]
