"""docs/release.md shows the output of docs/release_demo.sh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = re.compile(r"\b[0-9a-f]{12}\b")


def normalised(text: str) -> list[str]:
    """Non-empty lines, with commit ids numbered in order, without temporary paths and code fences."""
    seen: dict[str, str] = {}
    text = COMMIT.sub(lambda found: seen.setdefault(found[0], f"{len(seen):012d}"), text)
    text = re.sub(r"\S+/kine\.v", "/kine.v", text)
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and line != "```"]


@pytest.mark.slow  # twenty commands, one after the other
def test_release_document_shows_what_the_demo_prints(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
    }
    printed = subprocess.run(
        ["bash", ROOT / "docs" / "release_demo.sh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    document = (ROOT / "docs" / "release.md").read_text()
    shown = document[document.index("## A line is cut") :]
    assert normalised(printed.stdout) == normalised(shown)
    assert list(tmp_path.iterdir()) == []  # it cleans up
