"""Fates of a line's commits: reworded, squashed, split, changed, dropped, reverted, lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forktools import replay_cli
from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP, APP_1_1, NEW, OLD, edited, picked, upstream

Status = Callable[[], Result]


@pytest.fixture
def fork(history: History) -> History:
    return upstream(history)


@pytest.fixture
def new(fork: History) -> History:
    """The new line is cut, without commits."""
    fork.branch(NEW, "v1.1.0")
    return fork


@pytest.fixture
def status(fork: History, run: Command) -> Callable[[], dict[str, tuple[str, list[str]]]]:
    """State and counterparts of each old commit, by id."""

    def status() -> dict[str, tuple[str, list[str]]]:
        answer = run(fork, "replay", "status", "--from=v1.0.0", "--to=v1.1.0", "--output=json").json
        return {c["commit"]: (c["state"], [by["commit"] for by in c["by"]]) for c in answer["commits"]}

    return status


@pytest.fixture
def verify(fork: History, run: Command) -> Callable[..., Result]:
    def verify(*options: str) -> Result:
        return run(fork, "replay", "verify", "--from=v1.0.0", "--to=v1.1.0", "--output=json", *options)

    return verify


class TestInventory:
    """The commits that a line carries."""

    def kinds(self, fork: History, run: Command) -> list[tuple[str, str]]:
        answer = run(fork, "replay", "inventory", "v1.0.0", "--output=json").json
        return [(commit["subject"], commit["kind"]) for commit in answer["commits"]]

    def test_kinds(self, fork: History, run: Command) -> None:
        fork.commit("feat(fork): product", {"a": "1"}, on=OLD)
        fork.commit("ci(fork): tooling", {"b": "1"}, on=OLD)
        fork.commit("fix: without the scope", {"c": "1"}, on=OLD)
        fork.commit("no convention at all", {"d": "1"}, on=OLD)
        fork.commit(f"chore(fork): leave out\n\nReplay-Dropped: {'1' * 40} why", {}, on=OLD)
        fork.commit("chore(fork): empty", {}, on=OLD)

        assert self.kinds(fork, run) == [
            ("feat(fork): product", "product"),
            ("ci(fork): tooling", "tooling"),
            ("fix: without the scope", "stray"),
            ("no convention at all", "stray"),
            ("chore(fork): leave out", "record"),
            ("chore(fork): empty", "tooling"),
        ]

    def test_clean_merges_are_left_out_and_counted(self, fork: History, run: Command) -> None:
        fork.commit("feat(fork): on a branch", {"a": "1"}, on="topic", parents=[OLD])
        fork.commit("Merge topic", {"a": "1"}, on=OLD, parents=[OLD, "topic"])

        answer = run(fork, "replay", "inventory", OLD, "--output=json").json

        assert [commit["subject"] for commit in answer["commits"]] == ["feat(fork): on a branch"]
        assert answer["line"]["clean_merges"] == 1

    def test_merge_with_changes_of_its_own_is_listed(self, fork: History, run: Command) -> None:
        fork.commit("feat(fork): on a branch", {"a": "1"}, on="topic", parents=[OLD])
        fork.commit("Merge topic", {"a": "1", "b": "typed"}, on=OLD, parents=[OLD, "topic"])

        assert self.kinds(fork, run)[-1] == ("Merge topic", "stray")

    def test_unknown_line_is_an_error(self, fork: History, run: Command) -> None:
        assert run(fork, "replay", "inventory", "v9.9.9").status == 2


class TestStates:
    """Match states, from the strongest evidence to the weakest."""

    def test_same_patch(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): alpha", {"alpha.py": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha.py": "1\n"}, on=NEW)

        assert status() == {old: ("replayed", [replayed])}

    def test_reworded(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): alhpa", {"alpha.py": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha.py": "1\n"}, on=NEW)

        assert status() == {old: ("replayed", [replayed])}

    def test_same_patch_at_another_place_of_the_file(self, new: History, status: Status) -> None:
        new.commit("feat(fork): first", {"app.py": "top\n" + APP_1_1}, on=NEW)
        old = new.commit("fix(fork): five", {"app.py": edited(5, "five")}, on=OLD)
        replayed = new.commit("fix(fork): five", {"app.py": "top\n" + edited(5, "five", APP_1_1)}, on=NEW)

        assert status() == {old: ("replayed", [replayed])}

    def test_indentation_is_a_change(self, new: History, status: Status) -> None:
        old = new.commit("fix(fork): guard", {"g.py": "if x:\n    a()\n    b()\n"}, on=OLD)
        replayed = new.commit("fix(fork): guard", {"g.py": "if x:\n    a()\nb()\n"}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_binary_files_are_compared(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): logo", {"logo": b"\0\x01one"}, on=OLD)
        replayed = new.commit("feat(fork): logo", {"logo": b"\0\x01two"}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_trailer(self, new: History, status: Status) -> None:
        old = new.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
        resolved = picked("fix(fork): thirty, resolved", old)
        replayed = new.commit(resolved, {"app.py": edited(30, "ours and theirs")}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_abbreviated_trailer(self, new: History, status: Status) -> None:
        old = new.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
        replayed = new.commit(picked("fix(fork): x", old[:9]), {"app.py": edited(30, "both")}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_squashed(self, new: History, status: Status) -> None:
        one = new.commit("feat(fork): one", {"one": "1\n"}, on=OLD)
        two = new.commit("fix(fork): two", {"two": "2\n"}, on=OLD)
        both = new.commit(picked("feat(fork): one and two", one, two), {"one": "1\n", "two": "2\n"}, on=NEW)

        assert status() == {one: ("replayed by trailer", [both]), two: ("replayed by trailer", [both])}

    def test_split(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): much", {"one": "1\n", "two": "2\n"}, on=OLD)
        one = new.commit(picked("feat(fork): one", old), {"one": "1\n"}, on=NEW)
        two = new.commit(picked("feat(fork): two", old), {"two": "2\n"}, on=NEW)

        assert status() == {old: ("replayed by trailer", [one, two])}

    def test_both_picked_from_one_commit(self, new: History, status: Status) -> None:
        old = new.commit(picked("fix(fork): a", "1" * 40), {"app.py": edited(3, "old")}, on=OLD)
        replayed = new.commit(picked("fix(fork): b", "1" * 40), {"app.py": edited(3, "new", APP_1_1)}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_one_origin_split_in_the_old_line_is_no_evidence(self, new: History, status: Status) -> None:
        one = new.commit(picked("fix(fork): one", "1" * 40), {"one": "1\n"}, on=OLD)
        two = new.commit(picked("fix(fork): two", "1" * 40), {"two": "1\n"}, on=OLD)
        new.commit(picked("fix(fork): three", "1" * 40), {"one": "2\n"}, on=NEW)

        assert status() == {one: ("missing", []), two: ("missing", [])}

    def test_subject_alone(self, new: History, status: Status) -> None:
        old = new.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
        replayed = new.commit("fix(fork): thirty", {"app.py": edited(30, "both", APP_1_1)}, on=NEW)

        assert status() == {old: ("changed in replay", [replayed])}

    def test_range_diff_of_a_changed_commit(self, new: History, run: Command) -> None:
        new.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
        new.commit("fix(fork): thirty", {"app.py": edited(30, "both", APP_1_1)}, on=NEW)

        shown = run(new, "replay", "status", "--to", "v1.1.0").out

        assert "-+ours" in shown.replace(" ", "")
        assert "++both" in shown.replace(" ", "")

    def test_empty_commit_by_its_subject(self, new: History, status: Status) -> None:
        old = new.commit("chore(fork): mark", {}, on=OLD)
        replayed = new.commit("chore(fork): mark", {}, on=NEW)

        assert status() == {old: ("replayed", [replayed])}

    def test_in_upstream_by_patch(self, new: History, status: Status) -> None:
        old = new.commit("fix(fork): the bug, early", {"bug.py": "fixed\n"}, on=OLD)

        assert status() == {old: ("in upstream", [new.sha("v1.1.0")])}

    def test_in_upstream_by_trailer(self, new: History, status: Status) -> None:
        origin = new.sha("v1.1.0")
        old = new.commit(picked("fix(fork): the bug, adapted", origin), {"bug.py": "fixed it\n"}, on=OLD)

        assert status() == {old: ("changed in replay", [origin])}

    def test_dropped_on_record(self, new: History, run: Command, status: Status) -> None:
        old = new.commit("feat(fork): old thing", {"old": "1\n"}, on=OLD)
        message = run(new, "replay", "drop", old, "--reason", "upstream has its own").out
        new.commit(message, {}, on=NEW)

        commits = run(new, "replay", "status", "--to=v1.1.0", "--output=json").json["commits"]

        assert [(c["state"], c["remark"]) for c in commits] == [("dropped", "upstream has its own")]

    def test_record_without_a_reason_is_none(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): old thing", {"old": "1\n"}, on=OLD)
        new.commit(f"chore(fork): drop\n\nReplay-Dropped: {old}\n", {}, on=NEW)

        assert status() == {old: ("missing", [])}

    def test_missing(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): lost", {"lost": "1\n"}, on=OLD)

        assert status() == {old: ("missing", [])}

    def test_reverted_in_the_new_line(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)
        revert = f"revert(fork): alpha\n\nThis reverts commit {replayed}."
        new.commit(revert, {"alpha": None}, on=NEW)

        assert status() == {old: ("reverted", [replayed])}

    def test_revert_of_the_revert(self, new: History, status: Status) -> None:
        old = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)
        revert = new.commit(f"revert(fork): a\n\nThis reverts commit {replayed}.", {"alpha": None}, on=NEW)
        again = f"revert(fork): b\n\nThis reverts commit {revert}."
        new.commit(again, {"alpha": "1\n"}, on=NEW)

        assert status()[old] == ("replayed", [replayed])

    def test_revert_that_the_old_line_has_too(self, new: History, status: Status) -> None:
        one = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        two = new.commit(f"revert(fork): alpha\n\nThis reverts commit {one}.", {"alpha": None}, on=OLD)
        first = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)
        text = f"revert(fork): alpha\n\nThis reverts commit {first}."
        second = new.commit(text, {"alpha": None}, on=NEW)

        assert status() == {one: ("replayed", [first]), two: ("replayed", [second])}

    def test_commit_made_twice_must_be_there_twice(self, new: History, status: Status) -> None:
        one = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        gone = new.commit("revert(fork): alpha", {"alpha": None}, on=OLD)
        two = new.commit("feat(fork): alpha again", {"alpha": "1\n"}, on=OLD)
        only = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)

        assert status() == {one: ("replayed", [only]), gone: ("missing", []), two: ("missing", [])}

    def test_trailer_does_not_lend_a_commit_that_is_another_s(self, new: History, status: Status) -> None:
        one = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        two = new.commit("feat(fork): beta", {"beta": "1\n"}, on=OLD)
        only = new.commit(picked("feat(fork): alpha", one, two), {"alpha": "1\n"}, on=NEW)

        assert status() == {one: ("replayed", [only]), two: ("missing", [])}

    def test_merge_s_own_change_is_matched_by_trailer_only(self, new: History, status: Status) -> None:
        side = new.commit("feat(fork): side", {"a": "1\n"}, on="topic", parents=[OLD])
        merge = new.commit("fix(fork): merge", {"a": "1\n", "b": "typed\n"}, on=OLD, parents=[OLD, "topic"])
        first = new.commit("feat(fork): side", {"a": "1\n"}, on=NEW)
        second = new.commit(picked("fix(fork): by hand", merge), {"b": "typed\n"}, on=NEW)

        assert status() == {side: ("replayed", [first]), merge: ("replayed by trailer", [second])}

    def test_new_commits_are_listed(self, new: History, run: Command) -> None:
        added = new.commit("feat(fork): brand new", {"n": "1\n"}, on=NEW)

        answer = run(new, "replay", "status", "--to=v1.1.0", "--output=json").json

        assert [entry["commit"] for entry in answer["new_commits"]] == [added]

    def test_fork_s_previous_line_is_the_default(self, new: History, run: Command) -> None:
        new.branch("release/vcluster/v0.9.9", "v1.0.0")
        new.branch("release/vcluster/v1.2.0", "v1.1.0")

        answer = run(new, "replay", "status", "--to=v1.1.0", "--output=json").json

        assert answer["old"]["branch"] == OLD

    def test_versions_are_compared_as_numbers(self, new: History, run: Command) -> None:
        for version in ("v1.9.0", "v1.10.0", "v1.11.0"):
            new.tag(version, "main")
            new.branch(f"release/vcluster/{version}", "main")

        answer = run(new, "replay", "status", "--to=v1.11.0", "--output=json").json

        assert answer["old"]["branch"] == "release/vcluster/v1.10.0"


class TestVerify:
    """The replay rule, as an exit status."""

    def test_whole_line_passes(self, new: History, verify: Callable[..., Result]) -> None:
        new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)

        assert verify().status == 0

    def test_missing_commit_fails(self, new: History, verify: Callable[..., Result]) -> None:
        old = new.commit("ci(fork): lost", {"alpha": "1\n"}, on=OLD)

        result = verify()

        assert (result.status, result.rules) == (1, [("replay-missing", None)])
        assert result.json["findings"][0]["commit"] == old

    def test_reverted_commit_fails(self, new: History, verify: Callable[..., Result]) -> None:
        new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)
        new.commit(f"revert(fork): a\n\nThis reverts commit {replayed}.", {"alpha": None}, on=NEW)

        assert verify().rules == [("replay-reverted", None)]

    def test_reverted_and_recorded_passes(
        self, new: History, run: Command, verify: Callable[..., Result]
    ) -> None:
        old = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=OLD)
        replayed = new.commit("feat(fork): alpha", {"alpha": "1\n"}, on=NEW)
        new.commit(f"revert(fork): a\n\nThis reverts commit {replayed}.", {"alpha": None}, on=NEW)
        new.commit(run(new, "replay", "drop", old, "--reason", "not needed").out, {}, on=NEW)

        assert (verify().status, verify().rules) == (0, [])

    def test_missing_stray_is_a_warning_and_fails_when_strict(
        self, new: History, verify: Callable[..., Result]
    ) -> None:
        new.commit("hand-made change", {"alpha": "1\n"}, on=OLD)

        assert (verify().status, verify().rules) == (0, [("replay-stray", None)])
        assert verify("--strict").status == 1

    def test_change_in_replay_fails(self, new: History, verify: Callable[..., Result]) -> None:
        new.commit("fix(fork): thirty", {"app.py": edited(30, "ours", APP)}, on=OLD)
        new.commit("fix(fork): thirty", {"app.py": edited(30, "both", APP_1_1)}, on=NEW)

        assert (verify().status, verify().rules) == (1, [("replay-changed", None)])

    def test_line_not_cut_from_its_tag_fails(self, fork: History, verify: Callable[..., Result]) -> None:
        fork.branch(NEW, "v1.0.0")

        assert verify().rules == [("line-not-from-upstream-tag", None)]

    def test_first_line_passes(self, fork: History, run: Command) -> None:
        result = run(fork, "replay", "verify", "--to", "v1.0.0")

        assert result.status == 0
        assert "first line" in result.out

    def test_unknown_new_line_is_an_error(self, fork: History, verify: Callable[..., Result]) -> None:
        assert verify().status == 2


def test_past_the_limit_the_command_stands_for_the_range_diff(
    fork: History, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_cli, "RANGE_DIFFS", 1)
    olds = [fork.commit(f"fix(fork): {n}", {f"f{n}": "1\n"}, on=OLD) for n in range(2)]
    fork.branch(NEW, "v1.1.0")
    news = [
        fork.commit(picked(f"fix(fork): {n}", old), {f"f{n}": "2\n"}, on=NEW) for n, old in enumerate(olds)
    ]

    answer = run(fork, "replay", "status", "--to=v1.1.0", "--output=json").json

    first, second = (commit["range_diff"] for commit in answer["commits"])
    assert len(first) > 1
    assert second == [f"git range-diff {olds[1]}^! {news[1]}^!"]
    assert "fix(fork): 1" in fork.git(*second[0].split()[1:])
