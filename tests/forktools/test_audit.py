"""`audit`: violations that no gate has checked."""

from __future__ import annotations

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import NEW, OLD, picked, upstream

GATE = ".github/workflows/version-policy.yaml"


@pytest.fixture
def fork(history: History) -> History:
    """Two valid lines with a valid release of each."""
    upstream(history)
    ours = history.commit("feat(fork): ours", {"o": "1\n", GATE: "on: push\n"}, on=OLD)
    history.tag("v1.0.0.vcluster.0", OLD)
    history.branch(NEW, "v1.1.0")
    history.commit(picked("feat(fork): ours", ours), {"o": "1\n", GATE: "on: push\n"}, on=NEW)
    history.tag("v1.1.0.vcluster.0", NEW)
    return history


def audit(history: History, run: Command) -> Result:
    return run(history, "audit", "--output", "json")


def told(result: Result) -> list[tuple[str, str]]:
    """Each finding's rule and the tag or line that it concerns."""
    return [(f["rule"], f["message"].split(":")[0]) for f in result.json["findings"]]


def test_a_sound_fork(fork: History, run: Command) -> None:
    fork.git("update-ref", "refs/upstream/tags/v1.0.0", "v1.0.0")
    fork.git("update-ref", "refs/upstream/tags/v1.1.0", "v1.1.0")

    result = audit(fork, run)

    assert (result.status, told(result)) == (0, [])
    assert result.json["lines"] == [OLD, NEW]
    assert result.json["tags"] == ["v1.0.0", "v1.0.0.vcluster.0", "v1.1.0", "v1.1.0.vcluster.0"]


def test_a_tag_that_met_no_check(fork: History, run: Command) -> None:
    """Its commit has no version-policy.yaml, so no check ran at the push; and it is not on the line."""
    fork.git("update-ref", "refs/upstream/tags/v1.0.0", "v1.0.0")
    fork.git("update-ref", "refs/upstream/tags/v1.1.0", "v1.1.0")
    fork.tag("v1.1.0.vcluster.1", "main~1")

    result = audit(fork, run)

    assert result.status == 1
    assert told(result) == [
        ("tag-not-on-line", "v1.1.0.vcluster.1"),
        ("audit-tag-unchecked", "v1.1.0.vcluster.1"),
    ]


def test_a_line_that_was_pushed_past_its_check(fork: History, run: Command) -> None:
    fork.commit("fix(fork): late, and only here", {"late": "1\n"}, on=OLD)
    fork.commit("no subject of ours", {"wild": "1\n"}, on=NEW)

    result = audit(fork, run)

    assert result.status == 1
    assert {("replay-missing", NEW), ("not-conventional", NEW)} <= set(told(result))


def test_a_tag_of_another_scheme_is_one_that_builds_an_image(fork: History, run: Command) -> None:
    fork.tag("v1.1.0-hotfix", NEW)
    assert ("tag-scheme", "v1.1.0-hotfix") in told(audit(fork, run))


def test_what_cannot_be_judged_is_a_finding_and_the_rest_is_judged(fork: History, run: Command) -> None:
    fork.git("update-ref", "refs/upstream/tags/v1.1.0", "v1.1.0")  # but no upstream tag v1.0.0

    result = audit(fork, run)

    assert result.status == 1
    assert {rule for rule, _ in told(result)} == {"audit-unreadable", "tag-scheme"}
    assert ("audit-unreadable", OLD) in told(result)


def test_what_is_accepted_is_listed_and_not_judged(fork: History, run: Command) -> None:
    fork.tag("v1.1.0-hotfix", NEW)
    fork.tag("v1.0.0-old", OLD)
    why = 'accepted = {"v1.1.0-hotfix" = "before the rule", "v9" = "none", "v1.0.0.vcluster.0" = "sound"}\n'
    fork.commit("ci: settings", {".github/forktools.toml": why})

    result = audit(fork, run)

    assert result.json["accepted"] == {"v1.1.0-hotfix": "before the rule"}
    assert ("tag-scheme", "v1.0.0-old") in told(result)
    assert [name for _, name in told(result) if name == "v1.1.0-hotfix"] == []


def test_numbers_are_in_their_order(fork: History, run: Command) -> None:
    for number in (10, 9, 2):
        fork.tag(f"v1.1.0.vcluster.{number}", NEW)
    tags = audit(fork, run).json["tags"]
    assert tags[-4:] == [f"v1.1.0.vcluster.{number}" for number in (0, 2, 9, 10)]


def test_tags_on_the_trunk_are_lines_bases(history: History, run: Command) -> None:
    history.commit("feat: base", {".forktools.toml": 'upstream = "trunk"\n'})
    history.tag("v1.0.0", "main")
    history.commit("feat(fork): aside", {"a": "1"}, on="aside", parents=["main"])
    history.tag("v1.1.0", "aside")

    assert told(audit(history, run)) == [("base-tag-off-trunk", "v1.1.0")]
