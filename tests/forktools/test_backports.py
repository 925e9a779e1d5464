"""`backports`: upstream fixes that a line lacks."""

from __future__ import annotations

import pytest

from forktools.backports import Urgency, urgency
from forktools.commits import Commit
from tests.forktools.conftest import Command
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import OLD, picked, upstream


@pytest.fixture
def fork(history: History) -> History:
    """A line of v1.0.0; upstream's two later releases have fixes, a feature and documentation."""
    upstream(history)  # v1.1.0 has "fix: the bug"
    history.commit("fix: a second bug", {"second.py": "fixed\n"})
    history.commit("Bump a module\n\nFixes CVE-2026-12345, GHSA-abcd-1234-wxyz.", {"go.mod": "2\n"})
    history.commit("feat: a feature", {"feature.py": "1\n"})
    history.commit("Prevent a panic in the watch loop", {"watch.py": "1\n"})
    history.commit("docs: how bugs are fixed", {"bugs.md": "1\n"})
    history.tag("v1.2.0", "main")
    return history


def missing(history: History, run: Command, *more: str) -> list[tuple[str, str, str]]:
    result = run(history, "backports", "--output", "json", *more)
    assert result.status == 0, result.err
    return [(one["urgency"], one["subject"], one["release"]) for one in result.json["commits"]]


def test_vulnerabilities_come_first_then_fixes(fork: History, run: Command) -> None:
    assert missing(fork, run) == [
        ("security", "Bump a module", "v1.2.0"),
        ("fix", "fix: the bug", "v1.1.0"),
        ("fix", "fix: a second bug", "v1.2.0"),
        ("fix", "Prevent a panic in the watch loop", "v1.2.0"),
    ]
    assert [one[0] for one in missing(fork, run, "--all")][-3:] == ["other"] * 3
    document = run(fork, "backports", "-o", "json").json
    assert document["commits"][0]["vulnerabilities"] == ["CVE-2026-12345", "GHSA-abcd-1234-wxyz"]
    assert (document["line"], document["upto"]) == (OLD, "v1.2.0")


def test_what_the_line_has_is_not_missing(fork: History, run: Command) -> None:
    """Found by its patch under any message, or by a trailer with any patch."""
    second, bump = fork.sha("main~4"), fork.sha("main~3")
    fork.commit("fix(fork): the second, too", {"second.py": "fixed\n"}, on=OLD)
    fork.commit(picked("fix(fork): bump it", bump), {"go.mod": "2\nothers\n"}, on=OLD)

    assert [subject for _, subject, _ in missing(fork, run)] == [
        "fix: the bug",
        "Prevent a panic in the watch loop",
    ]
    assert fork.subjects(f"{second}^..{second}") == ["fix: a second bug"]
    assert run(fork, "backports", "-o", "json").json["carried"] == 2


def test_an_empty_commit_that_names_a_fix_does_not_carry_it(fork: History, run: Command) -> None:
    bump = fork.sha("main~3")
    fork.commit(picked("fix(fork): bump it", bump), {}, on=OLD)
    assert missing(fork, run)[0][1] == "Bump a module"


def test_a_fix_that_the_line_took_back_is_missing_again(fork: History, run: Command) -> None:
    bump = fork.sha("main~3")
    taken = fork.commit(picked("fix(fork): bump it", bump), {"go.mod": "2\n"}, on=OLD)
    assert "Bump a module" not in [subject for _, subject, _ in missing(fork, run)]
    fork.commit(f"revert(fork): bump it\n\nThis reverts commit {taken}.", {"go.mod": None}, on=OLD)

    assert missing(fork, run)[0][1] == "Bump a module"


@pytest.mark.parametrize("first_is_mended", [True, False])
def test_the_same_mending_of_a_twin_place_is_another(
    history: History, run: Command, first_is_mended: bool
) -> None:
    """The patches are equal byte for byte, apart from the line numbers."""
    around = "".join(f"around {n}\n" for n in range(5))
    two = [f"func a\n{around}broken\n{around}", f"func b\n{around}broken\n{around}"]
    history.commit("feat: twins", {"twins.go": "".join(two)})
    history.tag("v1.0.0", "main")
    history.branch(OLD, "v1.0.0")
    mended = [two[0].replace("broken", "mended") + two[1], two[0] + two[1].replace("broken", "mended")]
    history.commit("fix: the first", {"twins.go": mended[0]})
    history.tag("v1.1.0", "main")
    history.commit("fix(fork): a bug", {"twins.go": mended[0 if first_is_mended else 1]}, on=OLD)

    assert missing(history, run) == ([] if first_is_mended else [("fix", "fix: the first", "v1.1.0")])


@pytest.mark.parametrize("named", [True, False])
def test_a_fix_that_the_line_took_back_in_part_is_missing_again(
    fork: History, run: Command, named: bool
) -> None:
    whole = "".join(f"check {n}\n" for n in range(6))
    fix = fork.commit("fix: checks", {"checks.go": whole})
    fork.tag("v1.3.0", "main")
    fork.commit(picked("fix(fork): checks", *([fix] if named else [])), {"checks.go": whole}, on=OLD)
    assert "fix: checks" not in [subject for _, subject, _ in missing(fork, run)]
    fork.commit("chore(fork): tidy up", {"checks.go": whole.replace("check 3\n", "")}, on=OLD)

    assert "fix: checks" in [subject for _, subject, _ in missing(fork, run)]


def test_what_upstream_took_back_itself_is_no_fix(fork: History, run: Command) -> None:
    bad = fork.commit("fix: for the worse", {"worse.py": "1\n"})
    fork.commit(f'Revert "fix: for the worse"\n\nThis reverts commit {bad}.', {"worse.py": None})
    fork.tag("v1.3.0", "main")

    assert [one for one in missing(fork, run) if "worse" in one[1]] == []


def test_what_the_line_does_without_on_record_is_not_asked_for_again(fork: History, run: Command) -> None:
    bump = fork.sha("main~3")
    fork.commit(f"chore(fork): leave out\n\nReplay-Dropped: {bump} we do not use it", {}, on=OLD)

    assert "Bump a module" not in [subject for _, subject, _ in missing(fork, run)]
    assert run(fork, "backports", "-o", "json").json["declined"] == 1


def test_how_far_to_look_can_be_said(fork: History, run: Command) -> None:
    assert [subject for _, subject, _ in missing(fork, run, "--upto", "v1.1.0")] == ["fix: the bug"]
    assert missing(fork, run, "--upto", "v1.0.0") == []


def test_on_a_trunk_of_one_s_own_the_trunk_is_upstream(history: History, run: Command) -> None:
    history.commit("feat: base", {".forktools.toml": 'upstream = "trunk"\n'})
    history.tag("v1.0.0", "main")
    history.branch(OLD, "v1.0.0")
    history.commit("fix(store): not released yet", {"a": "1"})

    assert missing(history, run) == [("fix", "fix(store): not released yet", "")]


@pytest.mark.parametrize("all_has", [True, False])
def test_exit_code_is_for_a_workflow_that_opens_an_issue(fork: History, run: Command, all_has: bool) -> None:
    if all_has:
        fork.git("update-ref", f"refs/heads/{OLD}", "main")
    result = run(fork, "backports", "--exit-code", "--output", "markdown")

    assert result.status == (0 if all_has else 1)
    assert result.out.splitlines()[0] == f"## {OLD}"
    assert ("git cherry-pick -x" in result.out) is not all_has


def test_an_issue_s_text_holds_no_markup_of_upstream_s(fork: History, run: Command) -> None:
    fork.commit("fix: @everyone <img src=x> `code` | [link](http://x)", {"m": "1"})
    fork.tag("v1.3.0", "main")

    text = run(fork, "backports", "--output", "markdown").out

    assert "@everyone" not in text
    assert "<img" not in text
    assert "](http" not in text


def test_a_fork_without_lines_or_upstream_s_tags_is_told_what_to_do(history: History, run: Command) -> None:
    assert "give --line" in run(history, "backports").err
    history.branch(OLD, "main")
    assert "forktools upstream fetch" in run(history, "backports").err


MESSAGES = (
    ("Fix watch", Urgency.FIX),
    ("[release] fixes a race", Urgency.FIX),
    ("fix(deps): x", Urgency.FIX),
    ("Merge fixture data", Urgency.OTHER),
    ("chore: fix the typo", Urgency.OTHER),
    ("ci: x\n\nsecurity scan", Urgency.SECURITY),
    ("x cve-2020-1234", Urgency.SECURITY),
    ("Vulnerability in y", Urgency.SECURITY),
    ("insecurity", Urgency.OTHER),
    ("Prefix keys", Urgency.OTHER),
)


@pytest.mark.parametrize(("message", "expected"), MESSAGES, ids=[text for text, _ in MESSAGES])
def test_urgency_is_read_from_the_words(message: str, expected: Urgency) -> None:
    assert urgency(Commit("0" * 40, (), message.split("\n")[0], message)) is expected
