"""Replay rule: a commit stands for another if it makes its change, or if the difference was accepted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP, APP_1_1, NEW, OLD, edited, picked, upstream

CHANGED = [("replay-changed", None)]


@pytest.fixture
def line(history: History) -> History:
    """The new line at its base; the old line has no commits yet."""
    upstream(history)
    history.branch(NEW, "v1.1.0")
    return history


def states(result: Result) -> list[str]:
    return [commit["state"] for commit in result.json["commits"]]


class TestAnotherChange:
    """A commit with the right subject or trailer that makes another change."""

    def test_by_trailer(self, line: History, verify: Command) -> None:
        old = line.commit("feat(fork): one", {"one.py": "1\n"}, on=OLD)
        line.commit(picked("feat(fork): one", old), {"README.md": "unrelated\n"}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (1, CHANGED)
        assert "the trailer names it" in result.json["findings"][0]["message"]

    def test_by_subject(self, line: History, verify: Command) -> None:
        line.commit("feat(fork): one", {"one.py": "1\n"}, on=OLD)
        line.commit("feat(fork): one", {"README.md": "unrelated\n"}, on=NEW)

        assert (verify(line).status, verify(line).rules) == (1, CHANGED)

    def test_of_a_stray_is_a_warning(self, line: History, verify: Command) -> None:
        line.commit("by hand", {"one.py": "1\n"}, on=OLD)
        line.commit("by hand", {"one.py": "2\n"}, on=NEW)

        assert (verify(line).status, verify(line).rules) == (0, [("replay-stray-changed", None)])

    def test_upstream_s_commit_that_it_says_it_was_picked_from(self, line: History, verify: Command) -> None:
        line.commit(picked("fix(fork): more", line.sha("v1.1.0")), {"more.py": "1\n"}, on=OLD)

        assert (verify(line).status, verify(line).rules) == (1, CHANGED)

    def test_the_same_lines_at_another_place(self, line: History, verify: Command) -> None:
        text = "".join(f"def f{n}():\n    one()\n" for n in range(20))
        line.commit("feat(fork): file", {"f.py": text}, on=OLD)
        line.commit("feat(fork): file", {"f.py": text}, on=NEW)
        lines = text.splitlines(keepends=True)
        here, there = ([*lines[:n], "    close()\n", *lines[n:]] for n in (4, 30))
        line.commit("fix(fork): close", {"f.py": "".join(here)}, on=OLD)
        line.commit("fix(fork): close", {"f.py": "".join(there)}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (1, CHANGED)
        assert "the same lines at another place" in result.json["findings"][0]["message"]


class TestTheSameChange:
    """Commits whose patches differ but whose changes are the same."""

    def test_as_git_picks_it(self, line: History, verify: Command) -> None:
        """Upstream has moved neighbouring lines; git merges them without a conflict."""
        moved = APP_1_1.replace("line 7\n", "line 7 moved\n")
        line.commit("fix(fork): moves", {"app.py": moved}, on=NEW)
        line.commit("fix(fork): ten", {"app.py": edited(9, "ten")}, on=OLD)
        line.commit("fix(fork): ten", {"app.py": edited(9, "ten", moved)}, on=NEW)

        assert (verify(line).status, states(verify(line))) == (0, ["replayed"])

    def test_one_for_many(self, line: History, verify: Command) -> None:
        one = line.commit("feat(fork): one", {"app.py": edited(3, "one")}, on=OLD)
        two = line.commit("fix(fork): two", {"app.py": edited(3, "one and two")}, on=OLD)
        both = {"app.py": edited(3, "one and two", APP_1_1)}
        line.commit(picked("feat(fork): both", one, two), both, on=NEW)

        assert (verify(line).status, states(verify(line))) == (0, ["replayed by trailer"] * 2)

    @pytest.mark.parametrize("part", [{"one.py": "1\n"}, {"one.py": "1\n", "two.py": "other\n"}])
    def test_one_for_many_needs_each_part(self, line: History, verify: Command, part: dict[str, str]) -> None:
        one = line.commit("feat(fork): one", {"one.py": "1\n", "a.py": "1\n"}, on=OLD)
        two = line.commit("fix(fork): two", {"two.py": "2\n"}, on=OLD)
        line.commit(picked("feat(fork): both", one, two), part, on=NEW)

        assert (verify(line).status, verify(line).rules) == (1, CHANGED * 2)

    def test_many_for_one(self, line: History, verify: Command) -> None:
        old = line.commit("feat(fork): much", {"one": "1\n", "two": "2\n"}, on=OLD)
        line.commit(picked("feat(fork): one", old), {"one": "1\n"}, on=NEW)
        assert verify(line).rules == CHANGED
        line.commit(picked("feat(fork): two", old), {"two": "2\n"}, on=NEW)

        assert (verify(line).status, states(verify(line))) == (0, ["replayed by trailer"])


class TestOnRecord:
    """Recorded acceptance: `replay accept` later, or `apply --continue --accept` when the line is cut."""

    @pytest.fixture
    def changed(self, line: History) -> History:
        line.commit("fix(fork): thirty", {"app.py": edited(30, "ours", APP)}, on=OLD)
        line.commit("fix(fork): thirty", {"app.py": edited(30, "both", APP_1_1)}, on=NEW)
        return line

    def accept(self, run: Command, history: History, reason: str = "both are wanted") -> Result:
        return run(history, "replay", "accept", history.sha(OLD), "--to=v1.1.0", f"--reason={reason}")

    def test_it_passes(self, changed: History, run: Command, verify: Command) -> None:
        said = self.accept(run, changed)
        changed.commit(said.out, {}, on=NEW)

        result = verify(changed, "--strict")

        assert (result.status, states(result)) == (0, ["changed, accepted"])
        assert result.json["commits"][0]["remark"] == "both are wanted"
        assert "++both" in said.err.replace(" ", "")  # the difference was shown

    def test_it_follows_the_line_s_policy(self, changed: History, run: Command) -> None:
        changed.commit(self.accept(run, changed).out, {}, on=NEW)

        assert run(changed, "check-pr", f"--base-ref={NEW}", "--base-sha=v1.1.0", f"--head={NEW}").status == 0

    def test_of_another_difference_it_does_not_speak(
        self, changed: History, run: Command, verify: Command
    ) -> None:
        record = self.accept(run, changed).out
        changed.branch(NEW, "v1.1.0")
        changed.commit("fix(fork): thirty", {"app.py": edited(30, "neither", APP_1_1)}, on=NEW)
        changed.commit(record, {}, on=NEW)

        assert (verify(changed).status, verify(changed).rules) == (1, CHANGED)

    def test_without_a_reason_it_is_none(self, changed: History, run: Command, verify: Command) -> None:
        digest = verify(changed).json["commits"][0]["difference"]
        changed.commit(f"chore(fork): x\n\nReplay-Accepted: {changed.sha(OLD)} {digest}\n", {}, on=NEW)

        assert self.accept(run, changed, " \u200b").status == 2
        assert verify(changed).rules == CHANGED

    def test_what_was_accepted_must_be_there(self, changed: History, run: Command, verify: Command) -> None:
        changed.commit(self.accept(run, changed).out, {}, on=NEW)
        changed.commit("chore(fork): tidy up", {"app.py": APP_1_1}, on=NEW)

        assert verify(changed).rules == [("replay-reverted", None)]

    def test_a_commit_that_is_not_changed_is_an_error(self, changed: History, run: Command) -> None:
        result = run(changed, "replay", "accept", changed.sha(NEW), "--to=v1.1.0", "--reason=why")

        assert (result.status, result.out) == (2, "")

    def test_a_release_from_before_records_is_taken_as_it_is(self, changed: History, verify: Command) -> None:
        released = changed.sha(NEW)
        setting = f'released-before-records = {{"v1.1.0.vcluster.0" = "{released}"}}\n'
        changed.commit("ci: settings", {".forktools.toml": setting})

        assert (verify(changed).status, verify(changed).rules) == (0, [("replay-unrecorded", None)])

        changed.commit("fix(fork): later", {"later": "1\n"}, on=OLD)
        changed.commit("fix(fork): later", {"later": "2\n"}, on=NEW)
        changed.tag("v1.1.0.vcluster.0", NEW)  # a moved tag: only the commit counts
        assert verify(changed).rules == [("replay-unrecorded", None), *CHANGED]


class TestApply:
    """A conflict resolved differently from the old line is accepted when the line is cut."""

    @pytest.fixture
    def stopped(self, history: History, run: Command) -> History:
        upstream(history)
        history.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
        assert run(history, "replay", "apply", "--to=v1.1.0").status == 1
        return history

    @pytest.fixture
    def worktree(self, tmp_path: Path) -> Path:
        return tmp_path / "work.v1.1.0"

    def settle(self, worktree: Path, text: str) -> None:
        (worktree / "app.py").write_text(text)
        subprocess.run(["git", "add", "app.py"], cwd=worktree, check=True)

    def test_continue_shows_the_difference_and_waits(
        self, stopped: History, run: Command, worktree: Path
    ) -> None:
        self.settle(worktree, edited(30, "both", APP_1_1))

        result = run(stopped, "replay", "apply", "--continue")

        assert result.status == 1
        assert "++both" in result.out.replace(" ", "")
        assert "--continue --accept" in result.out
        assert not stopped.has(f"refs/heads/{NEW}")

    @pytest.mark.parametrize("committed", [False, True])
    def test_accepted_in_the_commit_itself(
        self, stopped: History, run: Command, verify: Command, worktree: Path, committed: bool
    ) -> None:
        self.settle(worktree, edited(30, "both", APP_1_1))
        if committed:
            subprocess.run(["git", "commit", "-q", "--no-edit"], cwd=worktree, check=True)

        result = run(stopped, "replay", "apply", "--continue", "--accept", "both\nare wanted", "-o", "json")

        assert (result.status, result.json["phase"]) == (0, "done")
        assert stopped.git("log", "-1", "--format=%B", NEW).splitlines()[-1].endswith(" both are wanted")
        assert states(verify(stopped, "--strict")) == ["changed, accepted"]

    def test_amended_to_be_the_same_it_needs_no_reason(
        self, stopped: History, run: Command, verify: Command, worktree: Path
    ) -> None:
        self.settle(worktree, edited(30, "both", APP_1_1))
        waiting = run(stopped, "replay", "apply", "--continue", "--output=json")
        assert len(waiting.json["differs"]) == 1
        self.settle(worktree, edited(30, "ours", APP_1_1))
        subprocess.run(["git", "commit", "-q", "--amend", "--no-edit"], cwd=worktree, check=True)

        # Upstream changed the same line, so the change still differs: the patch contains both sides.
        assert run(stopped, "replay", "apply", "--continue").status == 1
        assert run(stopped, "replay", "apply", "--continue", "--accept", "ours is right").status == 0

    def test_accept_while_nothing_waits_is_an_error(self, history: History, run: Command) -> None:
        assert run(history, "replay", "apply", "--continue", "--accept", "why").status == 2
