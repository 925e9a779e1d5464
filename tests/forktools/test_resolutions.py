"""Reuse of conflict resolutions: a conflict resolved once is resolved the same way again, and shown."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP, APP_1_1, OLD, edited, upstream

REF = "refs/forktools/resolutions"
BOTH = edited(30, "both", APP_1_1)


@pytest.fixture
def fork(history: History) -> History:
    """v1.1.0 and v1.2.0 conflict with the old line's second commit in the same way."""
    upstream(history)
    history.commit("feat: more", {"app.py": edited(2, "two", APP_1_1)})
    history.tag("v1.2.0", "main")
    history.commit("feat(fork): one", {"one.py": "1\n"}, on=OLD)
    history.commit("fix(fork): thirty", {"app.py": edited(30, "ours", APP)}, on=OLD)
    history.commit("perf(fork): last", {"last.py": "1\n"}, on=OLD)
    return history


@pytest.fixture
def apply(run: Command) -> Callable[..., Result]:
    def apply(history: History, *options: str) -> Result:
        return run(history, "replay", "apply", "--output=json", *options)

    return apply


def settle(worktree: Path, text: str = BOTH) -> None:
    (worktree / "app.py").write_text(text)
    subprocess.run(["git", "add", "app.py"], cwd=worktree, check=True)


@pytest.fixture
def settled(fork: History, apply: Callable[..., Result], tmp_path: Path) -> History:
    """The first cut, with a conflict resolved by a person."""
    assert apply(fork, "--to=v1.1.0").status == 1
    settle(tmp_path / "work.v1.1.0")
    assert apply(fork, "--continue", "--accept", "both are wanted").status == 0
    assert fork.has(REF)
    return fork


def test_the_next_cut_goes_through_and_says_so(
    settled: History, apply: Callable[..., Result], run: Command
) -> None:
    result = apply(settled, "--from=v1.0.0", "--to=v1.2.0")

    assert (result.status, result.json["phase"]) == (0, "done")
    branch = "release/vcluster/v1.2.0"
    assert result.json["reused"] == [
        {
            "commit": settled.sha(f"{OLD}~1"),
            "by": settled.sha(f"{branch}~1"),
            "paths": ["app.py"],
            "moved": [],
        }
    ]
    assert settled.show(branch, "app.py").splitlines()[30] == "both"
    verified = run(settled, "replay", "verify", "--from=v1.0.0", "--to=v1.2.0", "--output=json")
    assert verified.status == 0
    assert [(one["state"], one["remark"]) for one in verified.json["commits"]][1] == (
        "changed, accepted",
        "both are wanted",
    )


def test_it_is_shown(settled: History, run: Command) -> None:
    said = run(settled, "replay", "apply", "--from=v1.0.0", "--to=v1.2.0").out

    assert "Conflicts settled as they were before" in said
    assert "++both" in said.replace(" ", "")


def test_another_conflict_waits_for_a_person(
    settled: History, apply: Callable[..., Result], tmp_path: Path
) -> None:
    settled.commit("feat: other", {"app.py": edited(30, "upstream's other thirty", APP)})
    settled.tag("v1.3.0", "main")

    result = apply(settled, "--from=v1.0.0", "--to=v1.3.0")

    assert (result.status, result.json["conflicts"], result.json["reused"]) == (1, ["app.py"], [])
    assert "<<<<<<<" in (tmp_path / "work.v1.3.0" / "app.py").read_text()


def test_a_taken_back_cut_keeps_what_was_settled(
    fork: History, apply: Callable[..., Result], tmp_path: Path
) -> None:
    fork.commit("fix(fork): forty", {"app.py": edited(30, "ours, better", APP)}, on=OLD)
    apply(fork, "--to=v1.1.0")
    settle(tmp_path / "work.v1.1.0")
    assert apply(fork, "--continue", "--accept", "both").status == 1  # the next conflict
    assert apply(fork, "--abort").status == 0

    again = apply(fork, "--to=v1.1.0")

    assert (again.status, again.json["done"]) == (1, 3)
    assert [one["paths"] for one in again.json["reused"]] == [["app.py"]]


def test_one_of_two_files_is_known(settled: History, apply: Callable[..., Result], tmp_path: Path) -> None:
    """The known conflict is resolved and staged, the other waits."""
    settled.branch("release/vcluster/v1.0.1", "v1.0.0")
    settled.tag("v1.0.1", "v1.0.0")
    changes = {"app.py": edited(30, "ours", APP), "bug.py": "fixed otherwise\n"}
    settled.commit("fix(fork): two files", changes, on="release/vcluster/v1.0.1")

    result = apply(settled, "--from=v1.0.1", "--to=v1.2.0")

    assert (result.status, result.json["conflicts"]) == (1, ["bug.py"])
    assert [one["paths"] for one in result.json["reused"]] == [["app.py"]]
    assert (tmp_path / "work.v1.2.0" / "app.py").read_text().splitlines()[30] == "both"


def test_git_s_own_rerere_is_not_turned_on(settled: History) -> None:
    assert not (settled.path / ".git" / "rr-cache").exists()


def test_a_damaged_record_is_passed_over(settled: History, apply: Callable[..., Result]) -> None:
    settled.git("update-ref", REF, "main")

    assert apply(settled, "--from=v1.0.0", "--to=v1.2.0").status == 1


def test_a_fetched_ref_serves_another_clone(
    settled: History, apply: Callable[..., Result], tmp_path: Path
) -> None:
    clone = History(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", str(settled.path), str(clone.path)], check=True)
    clone.git("fetch", "-q", "origin", f"+{REF}:{REF}")

    assert apply(clone, "--from=v1.0.0", "--to=v1.2.0").status == 0
