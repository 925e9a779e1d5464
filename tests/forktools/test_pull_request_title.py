"""A squash merge makes a pull request's title the subject of everything it changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History

LINE = "release/vcluster/v1.0.0"


@pytest.fixture
def work(history: History) -> History:
    """Two commits without a type or scope in their subjects."""
    history.branch(LINE, "main")
    history.commit("wip", {".github/x.yml": "1\n"}, on="work", parents=["main"])
    history.commit("wip", {"pkg/p.go": "1\n"}, on="work")
    return history


@pytest.mark.parametrize(
    ("base", "title", "rules"),
    [
        ("main", "feat(fork): product code", [("product-on-trunk", None)]),
        ("main", "ci(fork): tooling", [("path-outside-allowlist", "pkg/p.go")]),
        ("main", "feat (fork): nearly", [("nearly-fork", None)]),
        ("main", "Fix what upstream has", []),
        ("main", "", []),
    ],
)
def test_title_is_judged_with_every_path(
    work: History, check: Callable[..., Result], base: str, title: str, rules: list[tuple[str, str | None]]
) -> None:
    result = check(work, base, "work", title=title)

    assert result.rules == rules
    assert all("title" in finding["message"] for finding in result.json["findings"])
    assert all(finding["subject"] == title for finding in result.json["findings"])


def test_on_a_line(history: History, check: Callable[..., Result]) -> None:
    history.branch(LINE, "main")
    history.commit("fix(fork): one", {"one": "1"}, on="work", parents=["main"])
    history.commit("fix(fork): two", {"two": "1"}, on="work")

    assert check(history, LINE, "work", title="fix(fork): both").rules == []
    assert check(history, LINE, "work", title="Both").rules == [("not-conventional", None)]


def test_a_merge_s_own_changes_count(history: History, check: Callable[..., Result]) -> None:
    history.commit("docs: theirs", {"docs/a": "1"}, on="side", parents=["main"])
    history.commit("docs: mine", {"docs/b": "1"}, on="work", parents=["main"])
    history.commit(
        "chore(fork): merge", {"docs/a": "1", ".github/x": "typed"}, on="work", parents=["work", "side"]
    )

    assert check(history, "main", "work", title="docs(fork): all").rules == []
    history.commit("docs: more", {"kine/x.py": "1"}, on="work")
    assert check(history, "main", "work", title="docs(fork): all").rules == [
        ("path-outside-allowlist", "kine/x.py")
    ]


def test_a_single_commit_of_that_subject_is_told_once(history: History, check: Callable[..., Result]) -> None:
    history.commit("feat(fork): product", {"pkg/p": "1"}, on="work", parents=["main"])

    assert check(history, "main", "work", title="feat(fork): product").rules == [("product-on-trunk", None)]


def test_title_comes_from_the_event(
    work: History, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = {"title": "feat(fork): product", "base": {"ref": "main", "sha": work.sha("main")}}
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": pull | {"head": {"sha": work.sha("work")}}}))
    monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request_target")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))

    assert run(work, "check-pr", "--output=json").rules == [("product-on-trunk", None)]
