"""`check-tag` and `next-tag`: the tag scheme, the line, its base, the number, the tip."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from forktools.tags import parse_tag
from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History

LINE = "release/vcluster/v1.0.0"
TagCheck = Callable[..., Result]


@pytest.fixture
def fork(history: History) -> History:
    """Upstream's v1.0.0 and v1.1.0 on main, and a line with two commits cut from v1.0.0."""
    history.tag("v1.0.0", "main", "release 1.0.0")
    history.commit("feat: upstream goes on", {"kine/client.py": "1"})
    history.tag("v1.1.0", "main")
    history.commit("ci(fork): tooling", {".github/x": "1"})
    history.branch(LINE, "v1.0.0")
    history.commit("feat(fork): one", {"fork.py": "1"}, on=LINE)
    history.commit("fix(fork): two", {"fork.py": "2"}, on=LINE)
    return history


@pytest.fixture
def check_tag(run: Command) -> TagCheck:
    def check_tag(history: History, tag: str) -> Result:
        return run(history, "check-tag", tag, "--output", "json")

    return check_tag


@pytest.mark.parametrize(
    "tag", ["v0.16.3.vcluster.0", "v1.2.3.vcluster.10", "v0.0.0.vcluster.0", "v10.20.30.vcluster.40"]
)
def test_name_in_the_scheme(run: Command, tag: str) -> None:
    assert run(None, "check-tag", "--name-only", tag).status == 0
    assert str(parse_tag(tag)) == tag


@pytest.mark.parametrize(
    "tag",
    [
        "v0.16.3",
        "0.16.3.vcluster.0",
        "v0.16.vcluster.0",
        "v0.16.3.vcluster",
        "v0.16.3.vcluster.",
        "v0.16.3.vcluster.x",
        "v0.16.3-vcluster.0",
        "v0.16.3.vcluster.0-rc1",
        "v0.16.3.vcluster.0\n",
        " v0.16.3.vcluster.0",
        "v0.16.3xvclusterx0",
        "V0.16.3.vcluster.0",
        "v\u0660.\u0661.\u0662.vcluster.\u0663",
        "v0.16.3.vcluster.-1",
        "refs/tags/v0.16.3.vcluster.0",
        "",
    ],
)
def test_name_outside_the_scheme(
    run: Command, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # outside the tests' own repository, so that its settings are not read
    result = run(None, "check-tag", "--name-only", "--output", "json", tag)

    assert result.status == 1
    assert result.rules == [("tag-scheme", None)]


def test_outside_a_repository_only_the_name_is_checked(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run(None, "check-tag", "v0.16.3.vcluster.0")

    assert result.status == 0
    assert "only its name" in result.out


def test_first_release_at_the_tip(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", LINE)

    result = check_tag(fork, "v1.0.0.vcluster.0")

    assert (result.status, result.rules) == (0, [])
    assert (result.json["exists"], result.json["behind"]) == (True, 0)


def test_annotated_tag(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", LINE, "release")

    assert check_tag(fork, "v1.0.0.vcluster.0").json["commit"] == fork.sha(LINE)


def test_tag_that_does_not_exist_yet_is_judged_at_the_tip(fork: History, check_tag: TagCheck) -> None:
    result = check_tag(fork, "v1.0.0.vcluster.0")

    assert (result.status, result.json["exists"], result.json["commit"]) == (0, False, fork.sha(LINE))


def test_tag_behind_the_tip_is_told(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", f"{LINE}~1")

    result = check_tag(fork, "v1.0.0.vcluster.0")

    assert (result.status, result.rules, result.json["behind"]) == (0, [("tag-behind-tip", None)], 1)


def test_no_line(fork: History, check_tag: TagCheck) -> None:
    assert check_tag(fork, "v1.1.0.vcluster.0").rules == [("line-missing", None)]


def test_tag_on_another_branch(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", "main")

    assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("tag-not-on-line", None)]


def test_tag_of_upstream_s_own_commit_is_no_release(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", "v1.0.0")

    result = check_tag(fork, "v1.0.0.vcluster.0")

    assert (result.status, result.rules) == (1, [("tag-not-on-line", None)])


def test_tag_is_refused_for_a_commit_that_is_not_the_fork_s(fork: History, check_tag: TagCheck) -> None:
    fork.commit("feat: no scope", {"kine/x.py": "1"}, on=LINE)
    fork.commit("wip", {"kine/x.py": "2"}, on=LINE)

    assert check_tag(fork, "v1.0.0.vcluster.0").rules == [
        ("scope-not-fork", None),
        ("not-conventional", None),
    ]


def test_tag_is_refused_for_a_merged_history_that_is_not_related(fork: History, check_tag: TagCheck) -> None:
    fork.commit("feat: elsewhere", {"other.py": "1"}, on="other", parents=[])
    fork.commit("chore(fork): join", {"other.py": "1"}, on=LINE, parents=[LINE, "other"])

    assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("scope-not-fork", None)]


def test_a_deleted_tag_does_not_stop_its_line(fork: History, run: Command, check_tag: TagCheck) -> None:
    for number in (0, 1, 3):
        fork.tag(f"v1.0.0.vcluster.{number}", LINE)

    tag = run(fork, "next-tag", "--line", "v1.0.0").out.strip()
    result = check_tag(fork, tag)

    assert (tag, result.status, result.rules) == ("v1.0.0.vcluster.4", 0, [("tag-hole", None)])


def test_a_leading_zero_is_refused_by_name_alone(run: Command) -> None:
    assert run(None, "check-tag", "--name-only", "v1.0.0.vcluster.01").status == 1


def test_tag_of_a_tree_is_an_error(fork: History, check_tag: TagCheck) -> None:
    fork.git("tag", "v1.0.0.vcluster.0", f"{LINE}^{{tree}}")

    assert check_tag(fork, "v1.0.0.vcluster.0").status == 2


@pytest.mark.parametrize(
    ("taken", "tag", "rules"),
    [
        ([], 0, []),
        ([], 1, ["tag-number"]),
        ([0], 1, []),
        ([0], 2, ["tag-number"]),
        ([0, 1], 3, ["tag-number"]),
        ([0, 2], 1, ["tag-number"]),
        ([0, 1, 2], 3, []),
        ([0, 1, 2], 4, ["tag-number"]),
        ([0, 1, 2, 3], 2, []),
        ([0], 10**12, ["tag-scheme"]),
        ([0], int("9" * 4000), ["tag-scheme"]),
        ([0, 1, 2], 1, []),
        ([1], 0, ["tag-number"]),
    ],
)
def test_number(fork: History, check_tag: TagCheck, taken: list[int], tag: int, rules: list[str]) -> None:
    for number in taken:
        fork.tag(f"v1.0.0.vcluster.{number}", LINE)

    assert [rule for rule, _ in check_tag(fork, f"v1.0.0.vcluster.{tag}").rules] == rules


@pytest.mark.parametrize("tag", ["v1.0.0.vcluster.00", "v1.0.0.vcluster.01"])
def test_leading_zero_is_another_spelling_of_a_number(fork: History, check_tag: TagCheck, tag: str) -> None:
    fork.tag("v1.0.0.vcluster.0", LINE)
    fork.tag(tag, LINE)

    assert check_tag(fork, tag).rules == [("tag-number", None)]


def test_numbers_of_other_lines_do_not_count(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.1.0.vcluster.0", "main")
    fork.tag("v1.1.0.vcluster.1", "main")

    assert check_tag(fork, "v1.0.0.vcluster.0").rules == []


def test_release_that_does_not_build_on_the_last_is_told(fork: History, check_tag: TagCheck) -> None:
    fork.tag("v1.0.0.vcluster.0", LINE)
    fork.tag("v1.0.0.vcluster.1", f"{LINE}~1")

    result = check_tag(fork, "v1.0.0.vcluster.1")

    assert (result.status, result.rules) == (1, [("tag-order", None), ("tag-behind-tip", None)])


class TestOrder:
    """A release contains what the one before it released."""

    def test_a_rewritten_line_that_carries_each_patch(self, fork: History, check_tag: TagCheck) -> None:
        fork.tag("v1.0.0.vcluster.0", LINE)
        fork.branch(LINE, "v1.0.0")
        fork.commit("feat(fork): one", {"fork.py": "1"}, on=LINE)
        fork.commit("fix(fork): two", {"fork.py": "2"}, on=LINE)
        fork.commit("fix(fork): three", {"fork.py": "3"}, on=LINE)

        result = check_tag(fork, "v1.0.0.vcluster.1")

        assert (result.status, result.rules) == (0, [("tag-line-rewritten", None)])

    def test_a_rewritten_line_that_lost_one(self, fork: History, check_tag: TagCheck) -> None:
        fork.tag("v1.0.0.vcluster.0", LINE)
        fork.branch(LINE, "v1.0.0")
        fork.commit("feat(fork): one", {"fork.py": "1"}, on=LINE)

        result = check_tag(fork, "v1.0.0.vcluster.1")

        assert (result.status, result.rules) == (1, [("tag-order", None)])
        assert result.json["findings"][0]["subject"] == "fix(fork): two"

    def test_an_earlier_tag_that_was_put_on_the_trunk(self, fork: History, check_tag: TagCheck) -> None:
        fork.tag("v1.0.0.vcluster.0", f"{LINE}~1")
        fork.tag("v1.0.0.vcluster.1", "main")

        result = check_tag(fork, "v1.0.0.vcluster.2")

        assert (result.status, result.rules) == (0, [("tag-astray", None)])


class TestWhereTheLineWasCut:
    """A line is cut from the upstream tag, and from nowhere else."""

    def test_line_cut_from_main(self, fork: History, check_tag: TagCheck) -> None:
        fork.branch(LINE, "main")
        fork.commit("feat(fork): one", {"fork.py": "1"}, on=LINE)

        assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("line-not-from-upstream-tag", None)]

    def test_line_cut_from_another_release(self, fork: History, check_tag: TagCheck) -> None:
        fork.commit("fix: patch", {"kine/server.py": "x"}, on="upstream-1.0", parents=["v1.0.0"])
        fork.tag("v1.0.1", "upstream-1.0")
        fork.branch(LINE, "v1.0.1")
        fork.commit("feat(fork): one", {"fork.py": "1"}, on=LINE)

        assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("line-not-from-upstream-tag", None)]

    def test_line_cut_before_the_tag(self, fork: History, check_tag: TagCheck) -> None:
        fork.branch("release/vcluster/v1.1.0", "v1.0.0")

        assert check_tag(fork, "v1.1.0.vcluster.0").rules == [("line-not-from-upstream-tag", None)]

    def test_main_merged_into_the_line(self, fork: History, check_tag: TagCheck) -> None:
        fork.commit("chore(fork): merge main", {"kine/client.py": "1"}, on=LINE, parents=[LINE, "main"])

        assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("line-not-from-upstream-tag", None)]

    def test_a_tag_of_the_fork_s_is_never_taken_for_upstream_s(
        self, fork: History, check_tag: TagCheck
    ) -> None:
        fork.git("update-ref", "refs/upstream/tags/v1.0.0", fork.sha("v1.0.0"))
        fork.git("tag", "--delete", "v1.0.0")
        fork.tag("v1.0.0", f"{LINE}~1")
        fork.tag("v1.1.1", f"{LINE}~1")
        fork.branch("release/vcluster/v1.1.1", LINE)

        assert check_tag(fork, "v1.0.0.vcluster.0").rules == [("line-foreign", None)]
        assert check_tag(fork, "v1.1.1.vcluster.0").status == 2  # upstream has no tag v1.1.1

    def test_upstream_s_tag_missing_is_an_error_with_the_fix(self, fork: History, run: Command) -> None:
        fork.git("tag", "--delete", "v1.0.0")

        result = run(fork, "check-tag", "v1.0.0.vcluster.0")

        assert (result.status, result.out) == (2, "")
        assert "forktools upstream fetch" in result.err


class TestClones:
    """In CI the line exists only as a remote-tracking branch."""

    @pytest.fixture
    def clone(self, fork: History, tmp_path: Path) -> History:
        fork.git("checkout", "--quiet", "main")
        subprocess.run(["git", "clone", "--quiet", fork.path, tmp_path / "clone"], check=True)
        return History(tmp_path / "clone")

    def test_remote_line_is_enough(self, clone: History, check_tag: TagCheck) -> None:
        assert check_tag(clone, "v1.0.0.vcluster.0").rules == []

    def test_newer_local_line_counts(self, clone: History, fork: History, check_tag: TagCheck) -> None:
        clone.git("branch", "--quiet", LINE, f"origin/{LINE}")
        sha = clone.commit("fix(fork): three", {"fork.py": "3"}, on=LINE)

        assert check_tag(clone, "v1.0.0.vcluster.0").json["commit"] == sha

    def test_newer_remote_line_counts(self, clone: History, fork: History, check_tag: TagCheck) -> None:
        clone.git("branch", "--quiet", LINE, f"origin/{LINE}~1")

        assert check_tag(clone, "v1.0.0.vcluster.0").json["commit"] == fork.sha(LINE)

    def test_diverged_line_is_an_error(self, clone: History, run: Command) -> None:
        clone.git("branch", "--quiet", LINE, f"origin/{LINE}~1")
        clone.commit("fix(fork): other", {"fork.py": "3"}, on=LINE)

        result = run(clone, "check-tag", "v1.0.0.vcluster.0")

        assert (result.status, result.out) == (2, "")
        assert "diverged" in result.err

    def test_shallow_clone_is_an_error(self, fork: History, tmp_path: Path, run: Command) -> None:
        url = f"file://{fork.path}"
        subprocess.run(["git", "clone", "--quiet", "--depth=1", url, tmp_path / "shallow"], check=True)

        assert run(History(tmp_path / "shallow"), "check-tag", "v1.0.0.vcluster.0").status == 2


class TestNextTag:
    """One line on standard output, and nothing else."""

    @pytest.mark.parametrize("line", ["v1.0.0", "1.0.0", LINE])
    def test_first(self, fork: History, run: Command, line: str) -> None:
        assert run(fork, "next-tag", "--line", line).out == "v1.0.0.vcluster.0\n"

    def test_after_others(self, fork: History, run: Command) -> None:
        for number in (0, 1, 9, 10):
            fork.tag(f"v1.0.0.vcluster.{number}", LINE)

        assert run(fork, "next-tag", "--line", "v1.0.0").out == "v1.0.0.vcluster.11\n"

    @pytest.mark.parametrize("line", ["v1.1.0", "v9.9.9", "main", "v1.0", "v1.0.0.vcluster.0"])
    def test_no_such_line(self, fork: History, run: Command, line: str) -> None:
        result = run(fork, "next-tag", "--line", line)

        assert (result.status, result.out) == (2, "")

    def test_clone_without_tags_does_not_answer_0(self, fork: History, tmp_path: Path, run: Command) -> None:
        fork.tag("v1.0.0.vcluster.0", LINE)
        subprocess.run(["git", "clone", "-q", "--no-tags", fork.path, tmp_path / "clone"], check=True)

        result = run(History(tmp_path / "clone"), "next-tag", "--line", "v1.0.0")

        assert (result.status, result.out) == (2, "")
