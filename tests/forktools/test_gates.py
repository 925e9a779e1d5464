"""The replay rule at the gates: pushes to any line, tags, and lines that were rewritten or deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import NEW, OLD, upstream

NEWEST = "release/vcluster/v1.2.0"
MISSING = ("replay-missing", None)


@pytest.fixture
def fork(history: History) -> History:
    """Three lines; each has every commit of the one before it."""
    upstream(history)
    history.commit("feat: upstream", {"up": "1\n"})
    history.tag("v1.2.0", "main")
    history.branch(NEW, "v1.1.0")
    history.branch(NEWEST, "v1.2.0")
    for branch in (OLD, NEW, NEWEST):
        history.commit("feat(fork): one", {"one.py": "1\n"}, on=branch)
    return history


@pytest.fixture
def verify(run: Command) -> Callable[..., Result]:
    def verify(history: History, line: str = "v1.1.0", *more: str) -> Result:
        return run(history, "replay", "verify", "--to", line, "--output", "json", *more)

    return verify


@pytest.fixture
def check_tag(run: Command) -> Callable[..., Result]:
    def check_tag(history: History, line: str) -> Result:
        return run(history, "check-tag", f"{line}.vcluster.0", "--output", "json")

    return check_tag


def messages(result: Result) -> list[str]:
    return [finding["message"] for finding in result.json["findings"]]


class TestLateFix:
    """A fix on an older line that the newer lines lack."""

    @pytest.fixture
    def late(self, fork: History) -> str:
        return fork.commit("fix(fork): late", {"late.py": "1\n"}, on=OLD)

    def test_push_to_the_old_line_names_every_later_one(
        self, fork: History, late: str, verify: Callable[..., Result]
    ) -> None:
        result = verify(fork, "v1.0.0")

        assert (result.status, result.rules) == (1, [MISSING, MISSING])
        assert messages(result) == [f"is not in {NEW}", f"is not in {NEWEST}"]
        assert {finding["commit"] for finding in result.json["findings"]} == {late}
        assert [later["broken"] for later in result.json["later"]] == [[late], [late]]

    @pytest.mark.parametrize("line", ["v1.0.0", "v1.1.0"])
    def test_tag_of_either_line_is_refused(
        self, fork: History, late: str, check_tag: Callable[..., Result], line: str
    ) -> None:
        result = check_tag(fork, line)

        assert result.status == 1
        assert MISSING in result.rules
        assert f"is not in {NEW}" in messages(result)

    def test_release_made_before_the_fix_is_not_concerned(
        self, fork: History, run: Command, check_tag: Callable[..., Result]
    ) -> None:
        fork.tag("v1.0.0.vcluster.0", OLD)
        fork.commit("fix(fork): late", {"late.py": "1\n"}, on=OLD)

        assert (check_tag(fork, "v1.0.0").status, check_tag(fork, "v1.0.0").rules) == (
            0,
            [("tag-behind-tip", None)],
        )

    def test_carried_everywhere_it_passes(
        self, fork: History, late: str, verify: Callable[..., Result], check_tag: Callable[..., Result]
    ) -> None:
        for branch in (NEW, NEWEST):
            fork.commit("fix(fork): late", {"late.py": "1\n"}, on=branch)

        assert [verify(fork, line).status for line in ("v1.0.0", "v1.1.0", "v1.2.0")] == [0, 0, 0]
        assert check_tag(fork, "v1.0.0").status == 0

    def test_left_out_on_record_by_the_next_line_the_others_do_without(
        self, fork: History, late: str, verify: Callable[..., Result], run: Command
    ) -> None:
        fork.commit(run(fork, "replay", "drop", late, "--reason", "not there").out, {}, on=NEW)

        assert (verify(fork, "v1.0.0").status, verify(fork, "v1.0.0").rules) == (0, [])

    def test_changed_and_accepted_by_the_next_line_the_others_carry_that(
        self, fork: History, late: str, verify: Callable[..., Result], run: Command
    ) -> None:
        for branch in (NEW, NEWEST):
            fork.commit("fix(fork): late", {"late.py": "2\n"}, on=branch)
        record = run(fork, "replay", "accept", late, "--to=v1.1.0", "--reason=two here").out
        assert verify(fork, "v1.0.0").rules == [("replay-changed", None), ("replay-changed", None)]

        fork.commit(record, {}, on=NEW)

        assert (verify(fork, "v1.0.0").status, verify(fork, "v1.0.0").rules) == (0, [])

    def test_given_two_lines_only_these_are_compared(
        self, fork: History, late: str, verify: Callable[..., Result]
    ) -> None:
        assert verify(fork, "v1.2.0", "--from=v1.1.0").rules == []


class TestRemembered:
    """Commits remembered by release tags and by `--remember`."""

    @pytest.fixture(params=["tag", "ref"])
    def released(self, request: pytest.FixtureRequest, fork: History, verify: Callable[..., Result]) -> str:
        if request.param == "tag":
            fork.tag("v1.0.0.vcluster.0", OLD)
            return "v1.0.0.vcluster.0"
        assert verify(fork, "v1.0.0", "--remember").status == 0
        assert fork.sha("refs/forktools/lines/v1.0.0") == fork.sha(OLD)
        return "refs/forktools/lines/v1.0.0"

    def test_pushed_back_to_its_base(
        self, fork: History, released: str, verify: Callable[..., Result]
    ) -> None:
        lost = fork.sha(OLD)
        fork.branch(OLD, "v1.0.0")

        result = verify(fork, "v1.0.0")

        assert (result.status, result.rules) == (1, [("line-lost", None)])
        assert result.json["findings"][0]["commit"] == lost
        assert released in messages(result)[0]
        assert ("line-lost", None) in verify(fork, "v1.1.0").rules

    def test_what_it_lost_is_still_asked_for(
        self, fork: History, released: str, verify: Callable[..., Result]
    ) -> None:
        fork.branch(OLD, "v1.0.0")
        fork.branch(NEW, "v1.1.0")

        assert verify(fork, "v1.1.0").rules == [("line-lost", None), MISSING]

    def test_deleted(self, fork: History, released: str, verify: Callable[..., Result]) -> None:
        fork.git("update-ref", "-d", f"refs/heads/{OLD}")

        result = verify(fork, "v1.1.0")

        assert (result.status, result.rules) == (0, [("line-gone", None)])
        fork.branch(NEW, "v1.1.0")
        assert verify(fork, "v1.1.0").rules == [("line-gone", None), MISSING]

    def test_rewritten_with_all_its_work_it_passes(
        self, fork: History, released: str, verify: Callable[..., Result]
    ) -> None:
        fork.branch(OLD, "v1.0.0")
        fork.commit("feat(fork): one, reworded", {"one.py": "1\n"}, on=OLD)

        assert (verify(fork, "v1.0.0").status, verify(fork, "v1.0.0").rules) == (0, [])

    def test_a_line_that_fails_is_not_remembered(self, fork: History, verify: Callable[..., Result]) -> None:
        fork.commit("fix(fork): late", {"late.py": "1\n"}, on=OLD)

        assert verify(fork, "v1.0.0", "--remember").status == 1
        assert not fork.has("refs/forktools/lines/v1.0.0")

    def test_tag_put_on_another_branch_by_mistake_is_no_memory(
        self, fork: History, verify: Callable[..., Result]
    ) -> None:
        fork.tag("v1.0.0.vcluster.0", "main")

        assert (verify(fork, "v1.0.0").status, verify(fork, "v1.0.0").rules) == (0, [])

    def test_plan_carries_what_a_deleted_line_released(
        self, fork: History, released: str, run: Command
    ) -> None:
        for branch in (OLD, NEW, NEWEST):
            fork.git("update-ref", "-d", f"refs/heads/{branch}")

        answer = run(fork, "replay", "plan", "--to=v1.1.0", "--output=json").json

        assert [step["subject"] for step in answer["steps"]] == ["feat(fork): one"]
