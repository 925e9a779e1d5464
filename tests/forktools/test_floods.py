"""Long ranges and large numbers of findings: all are reported, and each patch is read once."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from forktools import commits, patch_cache, progress, reporting
from forktools.policy import Finding, Level, Rule
from tests.forktools.conftest import Command
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP, APP_1_1, NEW, OLD, edited, upstream
from tests.forktools.test_scale import bulk

ERROR = Rule("broken", "Says.", "Fix.")
WARNING = Rule("doubtful", "Says.", "Fix.", Level.WARNING)


class TestAnnotations:
    """GitHub shows ten annotations of a level; the last one counts the others."""

    def commands(self, *findings: Finding) -> list[str]:
        return [*reporting.workflow_commands(findings)]

    def test_ten_are_shown(self) -> None:
        assert len(self.commands(*[Finding(ERROR, f"m{n}") for n in range(10)])) == 10

    def test_of_more_the_tenth_counts_the_rest(self) -> None:
        flood = [Finding(ERROR, f"m{n}") for n in range(50_000)]
        lines = self.commands(*flood, *[Finding(WARNING, "w")] * 11)

        assert len(lines) == 20
        assert lines[9] == (
            "::error title=forktools::49991 more errors (50000 broken in all): see the job's summary and log."
        )
        assert lines[19].startswith("::warning title=forktools::2 more warnings (11 doubtful in all)")

    def test_the_table_ends_and_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        flood = [Finding(ERROR, f"message{n}") for n in range(reporting.TABLE_ROWS + 2)]
        reporting.show(reporting.Report("check-pr", "flooded.", {}, flood), reporting.Output.TABLE)

        shown = capsys.readouterr().out
        assert f"message{reporting.TABLE_ROWS - 1}." in shown
        assert f"message{reporting.TABLE_ROWS}." not in shown
        assert "2 more rows: --output json has them all." in shown


class TestPatches:
    """Upstream's patches take seconds to read; the second run takes them from the cache."""

    @pytest.fixture
    def fork(self, history: History, monkeypatch: pytest.MonkeyPatch) -> History:
        monkeypatch.setattr(commits, "KEPT_FROM", 20)
        monkeypatch.setattr(commits, "AT_ONCE", 20)
        history.tag("v1.0.0", "main")
        bulk(history, "main", "main", 50)
        history.tag("v1.1.0", "main")
        for tag, branch in (("v1.0.0", OLD), ("v1.1.0", NEW)):
            history.branch(branch, tag)
            history.commit("feat(fork): one", {"one.py": "1\n"}, on=branch)
        return history

    def asked(self, fork: History, run: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
        """The exit status, and the number of patches that git was asked for."""
        counts: list[int] = []
        read = commits._patch_ids

        def counted(repo: object, shas: list[str], context: int) -> dict[str, str]:
            counts.append(len(shas))
            return read(repo, shas, context)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(commits, "_patch_ids", counted)
            status = run(fork, "replay", "verify", "--to=v1.1.0").status
        return status, sum(counts)

    def test_the_second_run_reads_the_fork_s_only(
        self, fork: History, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status, first = self.asked(fork, run, monkeypatch)
        assert (status, first >= 50) == (0, True)

        assert self.asked(fork, run, monkeypatch) == (0, first - 50)

    @pytest.mark.parametrize("damage", ["nonsense", "directory", "read-only home"])
    def test_without_a_cache_all_is_read_again(
        self, fork: History, run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
    ) -> None:
        place = tmp_path / "cache" / "forktools" / "patches.db"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        if damage == "read-only home":
            (tmp_path / "cache").write_text("a file")
        elif damage == "directory":
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True)
            place.write_text("no database")

        status, first = self.asked(fork, run, monkeypatch)

        assert (status, self.asked(fork, run, monkeypatch)) == (0, (0, first))

    def test_an_empty_commit_is_kept_as_one(self) -> None:
        patch_cache.keep("k", {"a": "", "b": "1"})

        assert patch_cache.known("k", ["a", "b", "c"]) == {"a": "", "b": "1"}
        assert patch_cache.known("other", ["a"]) == {}

    def test_it_does_not_grow_for_ever(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(patch_cache, "_LIMIT", 10)
        for start in range(0, 40, 4):
            patch_cache.keep("k", {str(n): "x" for n in range(start, start + 4)})

        [path] = tmp_path.rglob("patches.db")
        assert sqlite3.connect(path).execute("SELECT count(*) <= 10 FROM patches").fetchone() == (1,)

    def test_a_terminal_is_told(self, fork: History, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        said = Terminal()
        monkeypatch.setattr(progress, "_EVERY", -1.0)
        monkeypatch.setattr("sys.stderr", said)

        progress.with_progress("Reading patches", 20, 50)
        progress.with_progress("Reading patches", 50, 50)

        assert said.getvalue() == "\r\033[KReading patches: 20 of 50\r\033[K"


class TestPlanAndApply:
    """Output of `plan` and `apply`, and the next tag."""

    def test_a_remark_is_no_conflict(self, history: History, run: Command) -> None:
        upstream(history)
        one = history.commit("feat(fork): one", {"one.py": "1\n"}, on=OLD)
        history.commit(f"revert(fork): one\n\nThis reverts commit {one}.", {"one.py": None}, on=OLD)
        history.commit("feat(fork): one again", {"one.py": "1\n"}, on=OLD)

        said = run(history, "replay", "plan", "--to=v1.1.0")
        answer = run(history, "replay", "plan", "--to=v1.1.0", "--output=json").json

        assert "All picks go through." in said.out
        assert any(step["remark"] for step in answer["steps"])
        assert not any(step["stops"] for step in answer["steps"])

    def test_the_next_tag_is_the_line_s(self, history: History, run: Command) -> None:
        upstream(history)
        history.commit("feat(fork): one", {"one.py": "1\n"}, on=OLD)
        history.tag("v1.1.0.vcluster.0", "main")  # from a deleted line

        said = run(history, "replay", "apply", "--to=v1.1.0")

        assert said.status == 0
        assert "git tag v1.1.0.vcluster.1 " in said.out

    def test_a_long_range_diff_names_the_command_that_shows_it(
        self, history: History, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upstream(history)
        history.branch(NEW, "v1.1.0")
        old = history.commit("fix(fork): much", {"app.py": edited(30, "ours\n" * 80, APP)}, on=OLD)
        new = history.commit("fix(fork): much", {"app.py": edited(30, "both\n" * 80, APP_1_1)}, on=NEW)

        said = run(history, "replay", "status", "--to=v1.1.0").out

        [line] = [line for line in said.splitlines() if "more lines:" in line]
        command = line.partition("more lines: ")[2]
        assert command == f"git range-diff --creation-factor=999 {old}^! {new}^!"
        assert "both" in history.git(*command.split()[1:])

    def test_a_tag_deleted_as_advised_leaves_the_line_going(self, history: History, run: Command) -> None:
        """Once next-tag printed 4, and check-tag expected 2."""
        upstream(history)
        for number in range(4):
            history.commit(f"fix(fork): {number}", {"f": f"{number}\n"}, on=OLD)
            history.tag(f"v1.0.0.vcluster.{number}", OLD)
        history.commit("fix(fork): more", {"f": "more\n"}, on=OLD)
        history.git("tag", "--delete", "v1.0.0.vcluster.2")
        history.git("update-ref", "-d", "refs/tags/v1.1.0")

        tag = run(history, "next-tag", "--line=v1.0.0").out.strip()

        assert tag == "v1.0.0.vcluster.4"
        result = run(history, "check-tag", tag, "--output=json")
        assert (result.status, result.rules) == (0, [("tag-hole", None)])


def test_wrong_usage_is_annotated(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    result = run(None, "next-tag")

    assert result.status == 2
    assert "::error title=forktools::" in result.err


@pytest.mark.parametrize("name", ["v1.0.0.vcluster.01", "v01.0.0.vcluster.1", "v1.0.0.vcluster.-1"])
def test_a_name_that_is_not_written_as_it_should_be(run: Command, name: str) -> None:
    assert run(None, "check-tag", "--name-only", name).status == 1


def test_a_pull_request_that_was_force_pushed_meanwhile_is_told(
    history: History, run: Callable[..., object]
) -> None:
    result = run(history, "check-pr", "--base=main", "--head-sha", "1" * 40)

    assert result.status == 2  # type: ignore[attr-defined]
    assert "force-pushed" in result.err  # type: ignore[attr-defined]


def test_findings_in_json_are_all_there(history: History, run: Command) -> None:
    for n in range(12):
        history.commit(f"feat(fork): {n}", {"f": f"{n}"}, on="work", parents=["main" if n == 0 else "work"])

    result = run(history, "check-pr", "--base=main", "--head=work", "--output=json")

    assert len(json.loads(result.out)["findings"]) == 12
