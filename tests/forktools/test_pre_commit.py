"""The hooks installed and run by the real pre-commit, in another repository that names this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forktools.git_history import History

ROOT = Path(__file__).parents[2]
LINE = "release/vcluster/v1.0.0"

# pre-commit, and this tree for it, are installed from the package index.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def pre_commit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pre-commit")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin/pip", "install", "--quiet", "pre-commit"], check=True)
    return place / "bin/pre-commit"


@pytest.fixture
def clone(history: History, tmp_path: Path, pre_commit: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """A clone of a fork with a trunk, a line and both hooks; the test has its own pre-commit cache."""
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{pre_commit.parent}{os.pathsep}{os.environ['PATH']}")
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, source], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True
    ).stdout.strip()
    named = "".join(f"      - id: forktools-{name}\n" for name in ("commit-msg", "pre-push"))
    config = (
        "default_install_hook_types: [commit-msg, pre-push]\n"
        f"repos:\n  - repo: {source}\n    rev: {head}\n    hooks:\n{named}"
    )
    history.commit(
        "feat: base", {".forktools.toml": 'upstream = "trunk"\n', ".pre-commit-config.yaml": config}
    )
    history.tag("v1.0.0", "main")
    history.branch(LINE, "v1.0.0")
    history.git("clone", "--quiet", str(history.path), str(tmp_path / "clone"))
    clone = History(tmp_path / "clone")
    clone.git("checkout", "--quiet", LINE)
    subprocess.run([pre_commit, "install", "--install-hooks"], cwd=clone.path, check=True)
    return clone


def git(history: History, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(["git", *arguments], cwd=history.path, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_commit_and_a_push_are_judged(clone: History) -> None:
    """A single test, because the installation takes a minute."""
    commit = ("commit", "--quiet", "--allow-empty", "--message")

    refused, said = git(clone, *commit, "fix: a bug")
    assert (refused, "scope-not-fork" in said) == (1, True)
    made, said = git(clone, *commit, "fix(fork): a bug")
    assert made == 0, said
    pushed, said = git(clone, "push", "origin", LINE)
    assert pushed == 0, said

    assert git(clone, *commit, "wip", "--no-verify")[0] == 0
    refused, said = git(clone, "push", "origin", LINE)
    assert (refused, "not-conventional" in said) == (1, True)
    assert clone.subjects(f"origin/{LINE}~1..origin/{LINE}") == ["fix(fork): a bug"]

    # A tag with commits that the remote lacks. pre-commit runs no hook for a tag on a commit that it has.
    clone.git("reset", "--quiet", "--hard", f"origin/{LINE}")
    assert git(clone, *commit, "fix(fork): another")[0] == 0
    clone.git("tag", "v1.0.0.vcluster.7")
    refused, said = git(clone, "push", "origin", "v1.0.0.vcluster.7")
    assert (refused, "tag-number" in said) == (1, True), said
