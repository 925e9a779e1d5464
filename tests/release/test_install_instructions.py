"""The distribution's name, and the installation commands in the documents."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from kine.version import DISTRIBUTION

ROOT = Path(__file__).parents[2]
INSTALL = re.compile(r"(?:pip install|pipx install|uv tool install)(?: --?[a-z-]+)* ('[^']+'|[^\s`|]+)")
# A file, the repository, or a package that the project's own lists of dependencies name too.
OURS = re.compile(
    r"\./|/src\b|\.$|git\+https://github\.com/loft-sh/kine|kine-etcd(\[[a-z-]+\])? @ git\+https://"
)


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if re.match(r"(README|docs/.*\.md|examples/|kine/)", name)]
    return [ROOT / name for name in names if not name.endswith((".svg", ".json"))]


def test_installed_name_is_the_projects() -> None:
    assert DISTRIBUTION == project()["name"] == "kine-etcd"
    installed = metadata.distribution(DISTRIBUTION)
    assert {entry.name: entry.value for entry in installed.entry_points}["kine"] == "kine.cli:main"


def test_routes_to_install_are_ours() -> None:
    for document in documents():
        text = document.read_text()
        assert " kine[" not in text, document
        assert "'kine[" not in text, document
        for what in INSTALL.findall(text):
            assert OURS.search(what.strip("'")), f"{document}: {what} is installed from somebody else"
