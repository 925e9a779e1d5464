"""`replay plan` and `apply`: atomic cuts, stops at conflicts, recovery after a kill, clean-up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forktools import replay_run, run_journal
from forktools.git_repository import open_repository
from forktools.replay_run import RunPhase
from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP_1_1, NEW, OLD, edited, upstream

Apply = Callable[..., Result]


@pytest.fixture
def fork(history: History) -> History:
    """A line of four commits; the third conflicts with v1.1.0."""
    upstream(history)
    history.commit("feat(fork): alpha", {"alpha.py": "1\n"}, on=OLD)
    history.commit("ci(fork): tooling\n\n#1 stays in the message\n", {".github/x": "1\n"}, on=OLD)
    history.commit(
        "fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD, author="Ada <ada@example.com>"
    )
    history.commit("perf(fork): last", {"last.py": "1\n"}, on=OLD)
    history.git("checkout", "--quiet", "main")
    (history.path / "alpha.py").write_text("precious, untracked\n")
    (history.path / "app.py").write_text("precious, modified\n")
    return history


@pytest.fixture
def smooth(history: History) -> History:
    """A line of 120 commits without conflicts."""
    upstream(history)
    for number in range(120):
        history.commit(f"fix(fork): {number}", {f"f{number % 7}": f"{number}\n"}, on=OLD)
    return history


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    return tmp_path / "work.v1.1.0"


@pytest.fixture
def apply(run: Command) -> Apply:
    def apply(history: History, *options: str) -> Result:
        where = [] if set(options) & {"--continue", "--abort"} else ["--to=v1.1.0"]
        return run(history, "replay", "apply", "--output=json", *where, *options)

    return apply


ACCEPT = "--accept=both are wanted"  # needed because `resolve` makes another change than the old line


def resolve(worktree: Path, text: str = edited(30, "both", APP_1_1)) -> None:
    (worktree / "app.py").write_text(text)
    subprocess.run(["git", "add", "app.py"], cwd=worktree, check=True)


class TestPlan:
    """`plan` shows what `apply` would do, and changes nothing."""

    def actions(self, fork: History, run: Command, *options: str) -> list[tuple[str, str]]:
        answer = run(fork, "replay", "plan", "--to=v1.1.0", "--output=json", *options).json
        return [(step["subject"], step["action"]) for step in answer["steps"]]

    def test_conflicts_are_foreseen(self, fork: History, run: Command) -> None:
        answer = run(fork, "replay", "plan", "--to=v1.1.0", "--output=json").json

        assert [step["conflicts"] for step in answer["steps"]] == [[], [], ["app.py"], []]

    def test_nothing_is_changed(self, fork: History, run: Command) -> None:
        before = fork.git("count-objects", "-v"), fork.state()

        run(fork, "replay", "plan", "--to=v1.1.0")

        assert (fork.git("count-objects", "-v"), fork.state()) == before

    def test_commit_that_upstream_took_is_left_out(self, fork: History, run: Command) -> None:
        fork.commit("fix(fork): the bug", {"bug.py": "fixed\n"}, on=OLD)

        assert self.actions(fork, run)[-1] == ("fix(fork): the bug", "in upstream")

    def test_commit_that_would_come_out_empty_is_foreseen(self, fork: History, run: Command) -> None:
        fork.commit("fix(fork): bug", {"bug.py": "half\n"}, on=OLD)
        fork.commit("fix(fork): bug, too", {"bug.py": "fixed\n"}, on=OLD)

        steps = run(fork, "replay", "plan", "--to=v1.1.0", "--output=json").json["steps"]

        assert steps[-2]["conflicts"] == ["bug.py"]
        assert "comes out empty" in steps[-1]["remark"] or steps[-1]["conflicts"] == ["bug.py"]

    @pytest.mark.parametrize(
        ("options", "action", "status"),
        [
            ([], "undecided", 1),
            (["--strays=pick"], "pick", 0),
            (["--strays=leave"], "leave", 0),
            (["--pick={}"], "pick", 0),
            (["--drop={}=why"], "drop", 0),
        ],
    )
    def test_strays_wait_for_a_decision(
        self, fork: History, run: Command, options: list[str], action: str, status: int
    ) -> None:
        sha = fork.commit("by hand", {"hand": "1\n"}, on=OLD)
        given = [option.format(sha[:10]) for option in options]

        assert self.actions(fork, run, *given)[-1] == ("by hand", action)
        assert run(fork, "replay", "plan", "--to=v1.1.0", *given).status == status

    def test_merge_with_changes_of_its_own_is_done_by_hand(self, fork: History, run: Command) -> None:
        fork.commit("feat(fork): side", {"side": "1\n"}, on="topic", parents=[OLD])
        changes = {"side": "1\n", "typed": "1\n"}
        fork.commit("fix(fork): merge", changes, on=OLD, parents=[OLD, "topic"])

        assert self.actions(fork, run)[-1] == ("fix(fork): merge", "by hand")

    @pytest.mark.parametrize(
        "option", ["--pick=abc", "--pick=main", "--drop=1234=x", "--drop=nonsense", "--drop=x="]
    )
    def test_id_that_is_not_of_the_line_is_an_error(self, fork: History, run: Command, option: str) -> None:
        assert run(fork, "replay", "plan", "--to=v1.1.0", option).status == 2

    def test_line_that_exists_is_an_error(self, fork: History, run: Command) -> None:
        fork.branch(NEW, "v1.1.0")

        assert run(fork, "replay", "plan", "--to=v1.1.0", "--from=v1.0.0").status == 2

    def test_upstream_tag_that_is_not_there_is_an_error(self, fork: History, run: Command) -> None:
        result = run(fork, "replay", "plan", "--to=v1.2.0")

        assert result.status == 2
        assert "forktools upstream fetch" in result.err


class TestApply:
    """Cutting the line."""

    def test_line_is_cut_from_the_tag_with_trailers(
        self, smooth: History, apply: Apply, worktree: Path
    ) -> None:
        result = apply(smooth)

        assert (result.status, result.json["phase"], result.json["done"]) == (0, "done", 120)
        assert smooth.subjects(f"v1.1.0..{NEW}") == smooth.subjects(f"v1.0.0..{OLD}")
        assert smooth.git("merge-base", NEW, "main") == smooth.sha("v1.1.0")
        assert f"(cherry picked from commit {smooth.sha(OLD)})" in smooth.git("log", "-1", "--format=%B", NEW)
        assert not worktree.exists()

    def test_the_line_verifies(self, smooth: History, apply: Apply, run: Command) -> None:
        apply(smooth)

        assert run(smooth, "replay", "verify", "--to=v1.1.0", "--strict").status == 0

    def test_user_s_work_tree_is_not_touched(self, fork: History, apply: Apply, worktree: Path) -> None:
        before = (
            fork.git("status", "--porcelain"),
            fork.git("symbolic-ref", "HEAD"),
            fork.git("stash", "list"),
        )

        apply(fork)
        resolve(worktree)
        apply(fork, "--continue", ACCEPT)

        assert (
            fork.git("status", "--porcelain"),
            fork.git("symbolic-ref", "HEAD"),
            fork.git("stash", "list"),
        ) == before
        assert (fork.path / "alpha.py").read_text() == "precious, untracked\n"
        assert (fork.path / "app.py").read_text() == "precious, modified\n"

    def test_stop_says_what_to_do(self, fork: History, run: Command, worktree: Path) -> None:
        result = run(fork, "replay", "apply", "--to=v1.1.0")

        assert result.status == 1
        assert "Stopped at commit 3 of 4" in result.out
        assert "app.py" in result.out
        assert str(worktree) in result.out
        assert "forktools replay apply --continue" in result.out
        assert "forktools replay apply --abort" in result.out
        assert not fork.has(f"refs/heads/{NEW}")

    def test_resolved_conflict_is_committed_by_continue(
        self, fork: History, apply: Apply, worktree: Path
    ) -> None:
        apply(fork)
        resolve(worktree)

        result = apply(fork, "--continue", ACCEPT)

        assert (result.status, result.json["phase"]) == (0, "done")
        assert fork.subjects(f"v1.1.0..{NEW}") == fork.subjects(f"v1.0.0..{OLD}")
        assert fork.show(NEW, "app.py") == edited(30, "both", APP_1_1).rstrip("\n")
        assert fork.git("log", "-1", "--format=%an %ae", f"{NEW}~1") == "Ada ada@example.com"
        assert "Conflicts:" not in fork.git("log", "--format=%B", f"v1.1.0..{NEW}")
        assert "#1 stays in the message" in fork.git("log", "--format=%B", f"v1.1.0..{NEW}")

    @pytest.mark.parametrize("command", [["commit", "--no-edit"], ["cherry-pick", "--continue"]])
    def test_resolved_conflict_may_be_committed_by_git(
        self, fork: History, apply: Apply, worktree: Path, command: list[str]
    ) -> None:
        apply(fork)
        resolve(worktree)
        subprocess.run(
            ["git", "-c", "core.editor=true", *command], cwd=worktree, check=True, capture_output=True
        )

        assert apply(fork, "--continue", ACCEPT).status == 0
        assert fork.subjects(f"v1.1.0..{NEW}") == fork.subjects(f"v1.0.0..{OLD}")

    def test_continue_from_the_work_tree_itself(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        resolve(worktree)

        assert apply(History(worktree), "--continue", ACCEPT).status == 0
        assert fork.has(f"refs/heads/{NEW}")

    def test_stopped_commit_can_be_dropped_on_record(
        self, fork: History, apply: Apply, run: Command, worktree: Path
    ) -> None:
        apply(fork)

        assert apply(fork, "--continue", "--drop", "upstream does it").status == 0
        verified = run(fork, "replay", "verify", "--to=v1.1.0", "--strict", "--output=json")
        assert verified.status == 0
        assert [(c["state"], c["remark"]) for c in verified.json["commits"]][2] == (
            "dropped",
            "upstream does it",
        )

    def test_planned_drop_is_recorded(self, fork: History, apply: Apply, run: Command) -> None:
        sha = fork.sha(f"{OLD}~1")

        assert apply(fork, f"--drop={sha[:12]}=not needed").status == 0
        assert run(fork, "replay", "verify", "--to=v1.1.0", "--strict").status == 0
        assert fork.subjects(f"v1.1.0..{NEW}")[2] == f"chore(fork): leave out {sha[:12]}"

    def test_drop_record_follows_the_line_s_own_policy(
        self, fork: History, apply: Apply, run: Command
    ) -> None:
        apply(fork, f"--drop={fork.sha(f'{OLD}~1')}=not needed")

        assert run(fork, "check-pr", f"--base-ref={NEW}", "--base-sha=v1.1.0", f"--head={NEW}").status == 0

    def test_merge_by_hand(self, fork: History, apply: Apply, run: Command, worktree: Path) -> None:
        sha = fork.sha(f"{OLD}~1")
        fork.commit("feat(fork): side", {"side": "1\n"}, on="topic", parents=[OLD])
        changes = {"side": "1\n", "typed": "1\n"}
        merge = fork.commit("fix(fork): merge", changes, on=OLD, parents=[OLD, "topic"], author="Ada <a@b.c>")
        stopped = apply(fork, f"--drop={sha}=no")
        (worktree / "typed").write_text("1\n")
        subprocess.run(["git", "add", "typed"], cwd=worktree, check=True)

        assert (stopped.status, stopped.json["waiting_for"]) == (1, merge)
        assert apply(fork, "--continue", ACCEPT).status == 0
        assert fork.git("log", "-1", "--format=%an %s", NEW) == "Ada fix(fork): merge"
        assert run(fork, "replay", "verify", "--to=v1.1.0", "--strict").status == 0

    def test_undecided_stray_is_an_error(self, fork: History, run: Command) -> None:
        fork.commit("by hand", {"hand": "1\n"}, on=OLD)
        before = fork.state()

        result = run(fork, "replay", "apply", "--to=v1.1.0")

        assert (result.status, result.out) == (2, "")
        assert "--strays" in result.err
        assert fork.state() == before

    def test_stray_is_picked_when_told(self, smooth: History, apply: Apply) -> None:
        smooth.commit("by hand", {"hand": "1\n"}, on=OLD)

        apply(smooth, "--strays=pick")

        assert smooth.subjects(NEW)[-1] == "by hand"

    def test_hooks_of_the_repository_do_not_run(self, smooth: History, apply: Apply, tmp_path: Path) -> None:
        hooks = smooth.path / ".git" / "hooks"
        hooks.mkdir(exist_ok=True)
        for name in ("post-checkout", "prepare-commit-msg", "commit-msg", "post-commit", "pre-commit"):
            (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit 1\n")
            (hooks / name).chmod(0o755)

        assert apply(smooth).status == 0
        assert list(tmp_path.glob("ran-*")) == []

    def test_worktree_can_be_placed(self, fork: History, apply: Apply, tmp_path: Path) -> None:
        place = tmp_path / "else where é"

        assert apply(fork, f"--worktree={place}").json["worktree"] == str(place)
        assert (place / "app.py").exists()

    def test_worktree_that_is_taken_is_an_error(self, fork: History, apply: Apply, worktree: Path) -> None:
        worktree.mkdir()
        (worktree / "mine").write_text("precious")

        assert apply(fork).status == 2
        assert (worktree / "mine").read_text() == "precious"

    def test_second_apply_while_one_is_under_way_is_an_error(self, fork: History, apply: Apply) -> None:
        apply(fork)

        result = apply(fork)

        assert result.status == 2
        assert "--continue" in result.err

    def test_branch_that_came_into_being_meanwhile_is_kept(
        self, fork: History, apply: Apply, worktree: Path
    ) -> None:
        apply(fork)
        fork.branch(NEW, "main~1")
        resolve(worktree)

        assert apply(fork, "--continue", ACCEPT).status == 2
        assert fork.sha(NEW) == fork.sha("main~1")

    def test_identity_is_needed(self, fork: History, apply: Apply, monkeypatch: pytest.MonkeyPatch) -> None:
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.delenv(f"GIT_{role}_NAME")
            monkeypatch.delenv(f"GIT_{role}_EMAIL")
        monkeypatch.setenv("EMAIL", "")
        fork.git("config", "user.useConfigOnly", "true")

        result = apply(fork)

        assert result.status == 2
        assert "user.name" in result.err

    def test_bare_repository(self, smooth: History, tmp_path: Path, apply: Apply) -> None:
        subprocess.run(["git", "clone", "-q", "--mirror", smooth.path, tmp_path / "bare.git"], check=True)
        bare = History(tmp_path / "bare.git")

        assert apply(bare).status == 0
        assert len(bare.subjects(f"v1.1.0..{NEW}")) == 120


class TestUnfinishedBusiness:
    """`--continue` reports the remaining steps, and never discards a person's work."""

    def test_conflict_not_resolved(self, fork: History, apply: Apply) -> None:
        apply(fork)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "still in conflict: app.py" in result.err

    def test_conflict_markers_left(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        subprocess.run(["git", "add", "app.py"], cwd=worktree, check=True)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "app.py" in result.err
        assert "<<<<<<<" in (worktree / "app.py").read_text()

    def test_change_not_staged(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        resolve(worktree)
        (worktree / "alpha.py").write_text("more\n")

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "not staged: alpha.py" in result.err

    def test_resolved_to_nothing(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        resolve(worktree, APP_1_1)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "--drop" in result.err

    def test_pick_given_up_by_git(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        subprocess.run(["git", "cherry-pick", "--abort"], cwd=worktree, check=True)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "--drop" in result.err

    def test_commit_without_the_trailer(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        resolve(worktree)
        subprocess.run(["git", "commit", "-qm", "fix(fork): mine"], cwd=worktree, check=True)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert f"(cherry picked from commit {fork.sha(f'{OLD}~1')})" in result.err

    def test_drop_after_the_person_committed_takes_it_back(
        self, fork: History, apply: Apply, worktree: Path
    ) -> None:
        apply(fork)
        resolve(worktree)
        subprocess.run(["git", "commit", "-q", "--no-edit"], cwd=worktree, check=True)

        apply(fork, "--continue", "--drop", "no")

        assert "fix(fork): thirty" not in fork.subjects(f"v1.1.0..{NEW}")

    def test_work_tree_that_is_gone(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        subprocess.run(["rm", "-rf", worktree], check=True)

        result = apply(fork, "--continue")

        assert result.status == 2
        assert "--abort" in result.err

    @pytest.mark.parametrize("option", ["--continue", "--abort"])
    def test_nothing_under_way(self, fork: History, apply: Apply, option: str) -> None:
        assert apply(fork, option).status == 2


class TestAbort:
    """`--abort` leaves nothing behind."""

    @pytest.mark.parametrize("mess", ["none", "resolved", "committed", "deleted", "untracked"])
    def test_abort(self, fork: History, apply: Apply, worktree: Path, mess: str) -> None:
        before = fork.state()
        apply(fork)
        if mess in ("resolved", "committed"):
            resolve(worktree)
        if mess == "committed":
            subprocess.run(["git", "commit", "-q", "--no-edit"], cwd=worktree, check=True)
        if mess == "deleted":
            subprocess.run(["rm", "-rf", worktree], check=True)
        if mess == "untracked":
            (worktree / "junk").write_text("x")

        result = apply(fork, "--abort")
        assert (result.status, result.json["phase"]) == (0, "undone")

        refs, status, worktrees, files = fork.state()
        assert (refs, status, worktrees) == before[:3]
        assert [name for name in files if name != "worktrees"] == before[3]
        assert not worktree.exists()

    def test_apply_after_abort(self, fork: History, apply: Apply, worktree: Path) -> None:
        apply(fork)
        apply(fork, "--abort")

        assert apply(fork).json["phase"] == "stopped"

    def test_other_work_trees_are_kept(self, fork: History, apply: Apply, tmp_path: Path) -> None:
        fork.git("worktree", "add", "--quiet", str(tmp_path / "mine"), OLD)
        apply(fork)

        apply(fork, "--abort")

        assert (tmp_path / "mine" / "app.py").exists()
        assert str(tmp_path / "mine") in fork.git("worktree", "list")


class TestKilled:
    """A killed run resumes from the commits in its work tree."""

    @pytest.fixture
    def killed(self, smooth: History, worktree: Path) -> History:
        """Killed in the middle of a pick: 30 commits and a half-made one, none of them in the run's file."""
        repo = open_repository(smooth.path)
        moves = [
            replay_run.RunStep(sha, "", replay_run.PlannedAction.PICK)
            for sha in smooth.git("rev-list", "--reverse", f"v1.0.0..{OLD}").split()
        ]
        base = smooth.sha("v1.1.0")
        state = replay_run.ReplayRun(NEW, base, str(worktree), base, tuple(moves))
        with run_journal.locked(repo) as runs:
            run_journal.write(runs, state)
        smooth.git("worktree", "add", "--quiet", "--detach", str(worktree), base)
        shas = [move.sha for move in moves[:30]]
        subprocess.run(["git", "cherry-pick", "-x", *shas], cwd=worktree, check=True, capture_output=True)
        (worktree / "f0").write_text("half-made\n")
        return smooth

    def test_continue_finds_its_place(self, killed: History, apply: Apply) -> None:
        result = apply(killed, "--continue")

        assert (result.status, result.json["phase"]) == (0, "done")
        assert killed.subjects(f"v1.1.0..{NEW}") == killed.subjects(f"v1.0.0..{OLD}")

    def test_abort(self, killed: History, apply: Apply, worktree: Path) -> None:
        assert apply(killed, "--abort").status == 0
        assert not worktree.exists()
        assert not killed.has(f"refs/heads/{NEW}")

    def test_commits_of_someone_else_are_not_taken_for_its_own(
        self, killed: History, apply: Apply, worktree: Path
    ) -> None:
        subprocess.run(["git", "commit", "-qam", "not ours"], cwd=worktree, check=True)

        assert apply(killed, "--continue").status == 2

    def test_killed_before_the_work_tree_was_made(
        self, smooth: History, apply: Apply, worktree: Path
    ) -> None:
        repo = open_repository(smooth.path)
        base = smooth.sha("v1.1.0")
        with run_journal.locked(repo) as runs:
            run_journal.write(runs, replay_run.ReplayRun(NEW, base, str(worktree), base, ()))

        assert apply(smooth, "--continue").json["phase"] == "done"

    def test_killed_after_the_branch_was_made(self, smooth: History, apply: Apply, worktree: Path) -> None:
        base = smooth.sha("v1.1.0")
        with run_journal.locked(open_repository(smooth.path)) as runs:
            run_journal.write(runs, replay_run.ReplayRun(NEW, base, str(worktree), base, ()))
        subprocess.run(["git", "branch", NEW, base], cwd=smooth.path, check=True)

        assert apply(smooth, "--continue").json["phase"] == "done"

    @pytest.mark.parametrize("ends", ["--continue", "--abort"])
    @pytest.mark.parametrize("unmade", ["HEAD", "link", "directory"])
    def test_killed_while_git_made_the_work_tree(
        self, smooth: History, apply: Apply, worktree: Path, unmade: str, ends: str
    ) -> None:
        base = smooth.sha("v1.1.0")
        with run_journal.locked(open_repository(smooth.path)) as runs:
            run_journal.write(runs, replay_run.ReplayRun(NEW, base, str(worktree), base, ()))
        add = ["git", "worktree", "add", "-q", "--lock", "--detach", str(worktree), base]
        subprocess.run(add, cwd=smooth.path, check=True)
        if unmade == "HEAD":
            [recorded] = (smooth.path / ".git/worktrees").glob("*/HEAD")
            recorded.write_text("0" * 40 + "\n")
        elif unmade == "link":
            (worktree / ".git").unlink()
        else:
            shutil.rmtree(worktree)

        answer = apply(smooth, ends)

        assert answer.status == 0, answer
        assert smooth.has(f"refs/heads/{NEW}") == (ends == "--continue")
        assert not worktree.exists()
        assert not list((smooth.path / ".git").glob("worktrees/*"))
        assert not (smooth.path / ".git/forktools").exists()

    @pytest.mark.parametrize("delay", [0.45, 0.6, 0.8])
    def test_sigkill_at_any_moment(self, smooth: History, apply: Apply, run: Command, delay: float) -> None:
        command = [
            sys.executable,
            "-m",
            "forktools",
            "replay",
            "apply",
            "--to=v1.1.0",
            "-C",
            str(smooth.path),
        ]
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": root}, start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        (smooth.path / ".git/packed-refs.lock").unlink(missing_ok=True)  # git may be killed while holding it

        if not smooth.has(f"refs/heads/{NEW}"):
            options = ["--continue"] if (smooth.path / ".git/forktools/v1.1.0.json").exists() else []
            answer = apply(smooth, *options)
            assert answer.status == 0, answer
            assert answer.json["phase"] == "done"
        assert run(smooth, "replay", "verify", "--to=v1.1.0", "--strict").status == 0


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("fix: x\n", "fix: x\n\nTRAILER\n"),
        ("fix: x", "fix: x\n\nTRAILER\n"),
        ("fix: x\n\nbody\n", "fix: x\n\nbody\n\nTRAILER\n"),
        ("fix: x\n\nSigned-off-by: A <a>\n", "fix: x\n\nSigned-off-by: A <a>\nTRAILER\n"),
        ("", "\n\nTRAILER\n"),
    ],
)
def test_trailer_is_put_where_git_puts_it(message: str, expected: str) -> None:
    assert replay_run.with_trailer(message, "1" * 40) == expected.replace(
        "TRAILER", f"(cherry picked from commit {'1' * 40})"
    )


def test_two_processes_cannot_cut_at_once(fork: History, apply: Apply) -> None:
    with run_journal.locked(open_repository(fork.path)):
        result = apply(fork)

    assert result.status == 2
    assert "another forktools" in result.err


def test_phases_are_what_the_schema_says() -> None:
    assert {phase.value for phase in RunPhase} == {"running", "stopped", "done", "undone"}
