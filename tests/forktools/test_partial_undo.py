"""A carried commit that later work has partly undone, and the later work that is allowed on its lines."""

from __future__ import annotations

import pytest

from tests.forktools.conftest import Command
from tests.forktools.git_history import Changes, Content, History, Link, Symlink
from tests.forktools.synthetic_fork import APP, NEW, OLD, edited, upstream

REVERTED = [("replay-reverted", None)]
THINNER = [("replay-thinner", None)]

GUARD = "".join(f"    check {n}\n" for n in range(12))
WHOLE = f"def guard():\n{GUARD}    return True\n"
SHORTER = APP.replace("line 5\n", "").replace("line 6\n", "").replace("line 25\n", "")


@pytest.fixture
def line(history: History) -> History:
    """The new line carries one commit: a new file, two changes in another, and removed lines."""
    upstream(history)
    history.commit("feat: lib", {"lib.py": APP}, on=OLD, parents=["v1.0.0"])
    history.git("tag", "--force", "v1.0.0", f"refs/heads/{OLD}")
    history.commit("feat: lib", {"lib.py": APP}, on=NEW, parents=["v1.1.0"])
    history.git("tag", "--force", "v1.1.0", f"refs/heads/{NEW}")
    for branch in (OLD, NEW):
        now = history.show(branch, "app.py") + "\n"
        place = edited(20, "far", edited(3, "near", now))
        files = {"guard.py": WHOLE, "app.py": place, "lib.py": SHORTER}
        history.commit("feat(fork): guard", files, on=branch)
    return history


def now(history: History, path: str) -> str:
    return history.show(NEW, path) + "\n"


UNDONE = {
    "lines": ("guard.py", "    check 3\n    check 4\n", ""),
    "a line": ("guard.py", "    check 3\n", ""),
    "all but one line": ("guard.py", WHOLE.removesuffix("    return True\n"), ""),
    "all but one line, for an excuse": ("guard.py", f"def guard():\n{GUARD}", "# nothing here\n"),
    "most lines, for excuses": ("guard.py", GUARD, "    # one\n    # two\n    # three\n    # four\n"),
    "one of two places": ("app.py", "near\n", "line 3\n"),
    "a place with nothing instead": ("app.py", "near\n", ""),
    "what it removed": ("lib.py", "line 4\n", "line 4\nline 5\nline 6\n"),
    "a part of what it removed": ("lib.py", "line 4\n", "line 4\nline 5\n"),
}


@pytest.mark.parametrize(("path", "text", "instead"), UNDONE.values(), ids=UNDONE)
@pytest.mark.parametrize("subject", ["revert(fork): guard", "fix(fork): tidy up"])
def test_is_refused_under_any_message(
    line: History, verify: Command, subject: str, path: str, text: str, instead: str
) -> None:
    assert text in now(line, path)
    line.commit(subject, {path: now(line, path).replace(text, instead)}, on=NEW)

    result = verify(line)

    assert (result.status, result.rules) == (1, REVERTED)
    assert path in result.json["findings"][0]["message"]


@pytest.mark.parametrize(
    "path", ['a "quoted" name', "a\nb", b"\xff.py", "a\tb", ":(glob)*", "--all", "b/a/x"], ids=repr
)
def test_in_a_file_of_any_name(line: History, verify: Command, path: str | bytes) -> None:
    for branch in (OLD, NEW):
        line.commit("feat(fork): file", {path: "one\r\ntwo\r\nthree"}, on=branch)
    assert verify(line).rules == []
    line.commit("fix(fork): less", {path: "one\r\nthree"}, on=NEW)

    assert [rule for rule, _ in verify(line).rules] == ["replay-reverted"]


@pytest.mark.parametrize(
    ("content", "then"),
    [
        (Link("1" * 40), Link("2" * 40)),
        (Symlink("one"), Symlink("two")),
        ("one\ntwo\n", Symlink("one")),
        (b"\0binary", b"\0another"),
        ("one\ntwo\n", Link("1" * 40)),
    ],
    ids=["submodule", "link", "file to link", "binary", "file to submodule"],
)
def test_of_what_is_no_text_all_is_written_over(
    line: History, verify: Command, content: Content, then: Content
) -> None:
    for branch in (OLD, NEW):
        line.commit("feat(fork): thing", {"thing": content}, on=branch)
    assert verify(line).rules == []
    line.commit("fix(fork): another", {"thing": then}, on=NEW)

    assert verify(line).rules == REVERTED


def test_by_a_merge(line: History, verify: Command) -> None:
    """git would join the two sides without a conflict; the merge leaves three lines out."""
    line.commit("feat(fork): other", {"other.py": "another\n"}, on="side", parents=["v1.1.0"])
    less = {"guard.py": WHOLE.replace(GUARD, GUARD[:-36]), "other.py": "another\n"}
    line.commit("chore(fork): merge", less, on=NEW, parents=[NEW, "side"])

    assert verify(line).rules == REVERTED


def test_in_small_steps(line: History, verify: Command) -> None:
    """Each commit writes one line for one or two that it takes; in the end less stands than is gone."""
    for n in range(0, 12, 2):
        text = now(line, "guard.py").replace(f"    check {n}\n    check {n + 1}\n", f"    # {n}\n")
        line.commit(f"refactor(fork): step {n}", {"guard.py": text}, on=NEW)

    assert verify(line).rules == REVERTED


def test_no_tag_is_made_of_it(line: History, run: Command) -> None:
    line.commit("fix(fork): tidy up", {"guard.py": WHOLE.replace("    check 3\n", "")}, on=NEW)

    result = run(line, "check-tag", "v1.1.0.vcluster.0", "--output", "json")

    assert (result.status, result.rules) == (1, REVERTED)


class TestOnRecord:
    """`Replay-Dropped`, in the commit that removes lines or in a later one."""

    def test_in_the_commit(self, line: History, verify: Command) -> None:
        message = f"fix(fork): fewer checks\n\nReplay-Dropped: {line.sha(OLD)} upstream has check 3"
        line.commit(message, {"guard.py": WHOLE.replace("    check 3\n", "")}, on=NEW)

        result = verify(line, "--strict")

        assert (result.status, result.rules) == (0, [])
        [commit] = result.json["commits"]
        assert (commit["state"], commit["remark"]) == (
            "replayed",
            "not whole, on record: upstream has check 3",
        )

    def test_after_it(self, line: History, verify: Command, run: Command) -> None:
        line.commit("fix(fork): fewer checks", {"guard.py": WHOLE.replace("    check 3\n", "")}, on=NEW)
        record = run(line, "replay", "drop", line.sha(OLD), "--reason", "upstream has check 3").out
        line.commit(record, {}, on=NEW)

        assert (verify(line).status, verify(line).rules) == (0, [])

    def test_of_what_is_taken_later_it_does_not_speak(self, line: History, verify: Command) -> None:
        message = f"fix(fork): fewer checks\n\nReplay-Dropped: {line.sha(OLD)} upstream has check 3"
        less = WHOLE.replace("    check 3\n", "")
        line.commit(message, {"guard.py": less}, on=NEW)
        line.commit("fix(fork): fewer still", {"guard.py": less.replace("    check 7\n", "")}, on=NEW)

        assert verify(line).rules == REVERTED


BETTER: dict[str, Changes] = {
    "a line is written anew": {"guard.py": WHOLE.replace("    check 3\n", "    check three\n")},
    "lines are added": {"guard.py": WHOLE.replace("    check 3\n", "    check 3\n    check 3.5\n")},
    "lines move": {"guard.py": WHOLE.replace("    check 3\n", "") + "    check 3\n"},
    "all is indented": {"app.py": APP.replace("line 3\n", "near\n").replace("line 20\n", "    far\n")},
    "a neighbour changes": {"lib.py": SHORTER.replace("line 4\n", "line four\n")},
    "a line that was removed comes where it was not": {"lib.py": f"line 5 of others\n{SHORTER}"},
    "several lines become one, among others": {
        "guard.py": WHOLE.replace("    check 3\n    check 4\n    check 5\n", "    check 3 to 5\n")
        .replace("    return True\n", "    return check\n")
        .replace("def guard():\n", "def guard() -> bool:\n")
    },
}


@pytest.mark.parametrize("changes", BETTER.values(), ids=BETTER)
def test_work_that_goes_on_is_no_undo(line: History, verify: Command, changes: Changes) -> None:
    line.commit("fix(fork): better", changes, on=NEW)

    assert verify(line).status == 0


def test_what_carried_work_takes_is_not_asked_for(line: History, verify: Command) -> None:
    less = {"guard.py": WHOLE.replace("    check 3\n", "")}
    for branch in (OLD, NEW):
        line.commit("fix(fork): fewer checks", less, on=branch)
    line.commit("fix(fork): another", {"guard.py": less["guard.py"] + "another()\n"}, on=NEW)

    assert verify(line).rules == []


def test_what_a_carried_merge_leaves_out_is_not_asked_for(line: History, verify: Command) -> None:
    """Both lines have resolved the conflict the same way."""
    for branch, base in ((OLD, "v1.0.0"), (NEW, "v1.1.0")):
        line.commit("feat(fork): other", {"other.py": "another\n"}, on=f"side-{base}", parents=[base])
        less = {"guard.py": WHOLE.replace("    check 3\n", ""), "other.py": "another\n"}
        line.commit("chore(fork): merge", less, on=branch, parents=[branch, f"side-{base}"])

    assert verify(line).rules == []


def test_what_another_commit_brings_back_stands(line: History, verify: Command) -> None:
    line.commit("fix(fork): fewer checks", {"guard.py": WHOLE.replace("    check 3\n", "")}, on=NEW)
    line.commit("fix(fork): all of them", {"guard.py": WHOLE}, on=NEW)

    assert verify(line, "--strict").rules == []


def test_a_helper_that_a_rewritten_file_needs_no_more_is_shown(line: History, verify: Command) -> None:
    """The real fork's `test(fork): exercise the default lock_timeout path`, as if only the new line had it:
    it takes a helper of thirteen lines from a test of two hundred, and writes seven others."""
    test = "".join(f"step {n}\n" for n in range(60))
    helper = "".join(f"help {n}\n" for n in range(6))
    for branch in (OLD, NEW):
        line.commit("test(fork): watch gap", {"gap_test.go": test + helper}, on=branch)
    newer = test.replace("step 7\n", "step seven\n").replace("step 30\n", "step thirty\nand more\n")
    line.commit("test(fork): the default", {"gap_test.go": newer}, on=NEW)

    result = verify(line)

    assert (result.status, result.rules) == (0, THINNER)
    assert result.json["findings"][0]["message"].startswith("6 lines of its change of gap_test.go")
    assert verify(line, "--strict").status == 1
