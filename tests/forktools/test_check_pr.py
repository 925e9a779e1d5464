"""`check-pr` on non-linear histories, in incomplete clones, and with arbitrary bytes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import DELETED, History, Link

LINE = "release/vcluster/v0.16.3"
Check = Callable[..., Result]


@pytest.fixture
def diverged(history: History) -> History:
    """main and work have diverged, with changes to different files."""
    history.commit("feat: upstream moves", {"kine/client.py": "new\n"})
    history.commit("ci(fork): work", {".github/x": "1"}, on="work", parents=["main~1"])
    return history


MERGED = {"kine/client.py": "new\n"}


class TestMerges:
    """A merge is judged by its own changes."""

    def test_clean_merge_of_main_passes(self, diverged: History, check: Check) -> None:
        diverged.commit("Merge branch 'main' into work", MERGED, on="work", parents=["work", "main"])

        assert check(diverged).rules == []

    def test_clean_merge_passes_on_a_line(self, diverged: History, check: Check) -> None:
        diverged.branch(LINE, "main")
        diverged.commit("Merge branch 'line' into work", MERGED, on="work", parents=["work", LINE])

        assert check(diverged, LINE).rules == []

    @pytest.mark.parametrize("path", ["kine/server.py", "kine/client.py", "kine/brand_new.py"])
    def test_evil_merge_is_refused_on_main(self, diverged: History, check: Check, path: str) -> None:
        diverged.commit(
            "Merge branch 'main' into work", MERGED | {path: "evil\n"}, on="work", parents=["work", "main"]
        )

        result = check(diverged)

        assert result.rules == [("merge-changes-path", path)]
        assert result.status == 1

    def test_merge_that_throws_one_side_away_is_refused(self, diverged: History, check: Check) -> None:
        diverged.commit("Merge branch 'main' into work", {}, on="work", parents=["work", "main"])

        assert check(diverged).rules == [("merge-changes-path", "kine/client.py")]

    def test_evil_merge_within_the_allowlist_passes_on_main(self, diverged: History, check: Check) -> None:
        changes = MERGED | {"docs/x.md": "1"}
        diverged.commit("Merge branch 'main' into work", changes, on="work", parents=["work", "main"])

        assert check(diverged).rules == []

    def test_evil_merge_is_refused_on_a_line(self, diverged: History, check: Check) -> None:
        diverged.branch(LINE, "main")
        changes = MERGED | {"docs/x.md": "1"}
        diverged.commit("Merge branch 'line' into work", changes, on="work", parents=["work", LINE])

        assert check(diverged, LINE).rules == [("merge-not-fork", "docs/x.md")]

    def test_evil_merge_with_a_fork_subject_passes_on_a_line(self, diverged: History, check: Check) -> None:
        diverged.branch(LINE, "main")
        changes = MERGED | {"kine/server.py": "x\n"}
        diverged.commit("fix(fork): merge the line", changes, on="work", parents=["work", LINE])

        assert check(diverged, LINE).rules == []

    def test_product_merge_is_refused_on_main_even_if_clean(self, diverged: History, check: Check) -> None:
        diverged.commit("feat(fork): merge main", MERGED, on="work", parents=["work", "main"])

        assert check(diverged).rules == [("product-on-trunk", None)]

    def test_tooling_merge_is_held_to_the_allowlist(self, diverged: History, check: Check) -> None:
        changes = MERGED | {"kine/server.py": "evil\n"}
        diverged.commit("chore(fork): merge main", changes, on="work", parents=["work", "main"])

        assert check(diverged).rules == [("path-outside-allowlist", "kine/server.py")]

    def test_commits_on_the_merged_side_are_judged(self, diverged: History, check: Check) -> None:
        diverged.commit("feat(fork): hidden behind a merge", {"a": "1"}, on="side", parents=["main~1"])
        diverged.commit("Merge branch 'side'", {"a": "1"}, on="work", parents=["work", "side"])

        assert check(diverged).rules == [("product-on-trunk", None)]

    def test_octopus_that_joins_cleanly_passes(self, diverged: History, check: Check) -> None:
        diverged.commit("docs: a", {"docs/a": "1"}, on="a", parents=["main"])
        diverged.commit("docs: b", {"docs/b": "1"}, on="b", parents=["main"])
        changes = MERGED | {"docs/a": "1", "docs/b": "1"}
        diverged.commit("Merge branches 'a' and 'b'", changes, on="work", parents=["work", "a", "b"])

        assert check(diverged).rules == []

    def test_evil_octopus_is_refused(self, diverged: History, check: Check) -> None:
        diverged.commit("docs: a", {"docs/a": "1"}, on="a", parents=["main"])
        diverged.commit("docs: b", {"docs/b": "1"}, on="b", parents=["main"])
        changes = MERGED | {"docs/a": "1", "docs/b": "1", "kine/server.py": "evil\n"}
        diverged.commit("Merge branches 'a' and 'b'", changes, on="work", parents=["work", "a", "b"])

        assert check(diverged).rules == [("merge-changes-path", "kine/server.py")]

    def test_octopus_that_drops_a_parent_is_refused(self, diverged: History, check: Check) -> None:
        diverged.commit("docs: a", {"docs/a": "1"}, on="a", parents=["main"])
        diverged.commit("feat: b", {"kine/b": "1"}, on="b", parents=["main"])
        changes = MERGED | {"docs/a": "1"}
        diverged.commit("Merge branches 'a' and 'b'", changes, on="work", parents=["work", "a", "b"])

        assert check(diverged).rules == [("merge-changes-path", "kine/b")]

    def test_resolved_conflict_passes_on_main_and_counts_on_a_line(
        self, history: History, check: Check
    ) -> None:
        history.commit("feat: theirs", {"kine/server.py": "one\nTHEIRS\nthree\n"})
        history.branch(LINE, "main")
        history.commit(
            "fix(fork): ours", {"kine/server.py": "one\nOURS\nthree\n"}, on="fork", parents=["main~1"]
        )
        history.commit("fix: ours", {"kine/server.py": "one\nOURS\nthree\n"}, on="sync", parents=["main~1"])
        resolution = {"kine/server.py": "one\nBOTH\nthree\n"}
        history.commit("Merge branch 'main'", resolution, on="sync", parents=["sync", "main"])
        history.commit("Merge branch 'line'", resolution, on="fork", parents=["fork", LINE])

        assert check(history, "main", "sync").rules == []
        assert check(history, LINE, "fork").rules == [("merge-not-fork", "kine/server.py")]

    def test_merge_of_unrelated_histories_is_judged(self, history: History, check: Check) -> None:
        history.commit("docs: another root", {"docs/x": "1"}, on="other", parents=[])
        history.commit("Merge 'other'", {"docs/x": "1", "a": "evil"}, on="work", parents=["main", "other"])

        assert check(history).rules == [("merge-changes-path", "a")]

    def test_user_configuration_does_not_change_the_verdict(self, diverged: History, check: Check) -> None:
        diverged.commit("Merge branch 'main' into work", MERGED, on="work", parents=["work", "main"])
        for setting in (
            "merge.renames=false",
            "diff.renames=copies",
            "log.showSignature=true",
            "color.ui=always",
        ):
            diverged.git("config", *setting.split("="))
        diverged.git("config", "diff.ignoreSubmodules", "all")

        assert check(diverged).rules == []

    def test_nothing_is_written_to_the_repository(self, diverged: History, check: Check) -> None:
        diverged.commit("Merge 'main'", MERGED | {"a": "x"}, on="work", parents=["work", "main", "main~1"])
        before = diverged.git("count-objects", "-v"), diverged.state()

        check(diverged)

        assert (diverged.git("count-objects", "-v"), diverged.state()) == before


class TestPaths:
    """A path can be any bytes."""

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            (b"with space", "with space"),
            (b'quo"ted', 'quo"ted'),
            (b"back\\slash", "back\\slash"),
            (b"new\nline", "new\\x0aline"),
            (b"tab\tbed", "tab\\x09bed"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"caf\xc3\xa9", "café"),
            (b"caf\xe9", "caf\\xe9"),
            (b":colon", ":colon"),
            (b"-dash", "-dash"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            (b"docs\xff/x", "docs\\xff/x"),
            ("‮txt.exe".encode(), "\\u202etxt.exe"),
        ],
    )
    def test_path_outside_the_allowlist_is_found(
        self, history: History, check: Check, path: bytes, shown: str
    ) -> None:
        history.commit("ci(fork): x", {path: "1"}, on="work", parents=["main"])

        assert check(history).rules == [("path-outside-allowlist", shown)]

    def test_non_utf8_path_within_the_allowlist_passes(self, history: History, check: Check) -> None:
        history.commit("ci(fork): x", {b"docs/\xff\n.md": "1"}, on="work", parents=["main"])

        assert check(history).rules == []

    def test_path_bytes_are_in_the_answer(self, history: History, check: Check) -> None:
        history.commit("ci(fork): x", {b"\xff": "1"}, on="work", parents=["main"])

        assert check(history).json["findings"][0]["path_base64"] == "/w=="

    def test_file_named_like_a_commit_hides_nothing(self, history: History, check: Check) -> None:
        first = history.commit("ci(fork): one", {"docs/x": "1"}, on="work", parents=["main"])
        history.commit("ci(fork): two", {first: "1", "a": "1"}, on="work")

        assert sorted(check(history).rules) == [
            ("path-outside-allowlist", path) for path in sorted([first, "a"])
        ]

    def test_submodule_change_cannot_be_hidden_by_its_settings(self, history: History, check: Check) -> None:
        settings = '[submodule "s"]\n\tpath = s\n\turl = ./s\n\tignore = all\n'
        history.commit("initial", {".gitmodules": settings, "s": Link("1" * 40)})
        history.git("read-tree", "main")
        history.git("config", "submodule.s.ignore", "all")
        history.commit("ci(fork): x", {"s": Link("2" * 40)}, on="work", parents=["main"])

        assert check(history).rules == [("path-outside-allowlist", "s")]

    def test_type_change_is_a_change(self, history: History, check: Check) -> None:
        history.commit("ci(fork): x", {"kine/server.py": Link("1" * 40)}, on="work", parents=["main"])

        assert check(history).rules == [("path-outside-allowlist", "kine/server.py")]

    def test_root_commit_is_judged(self, history: History, check: Check) -> None:
        history.commit("ci(fork): another root", {"a": "1"}, on="work", parents=[])

        assert check(history).rules == [("path-outside-allowlist", "a")]


class TestMessages:
    """A message can be any bytes; the subject is git's."""

    @pytest.mark.parametrize(
        ("message", "rules"),
        [
            (b"feat(fork): one\nline of two\n\nbody\n", []),
            (b"\n\n  \nfeat(fork): after blank lines\n", []),
            (b"feat(fork): carriage return\r\n\r\nbody\r\n", []),
            (b"feat(fork): caf\xe9\n", []),
            (b"feat(fork): nul\0byte\n", []),
            (b"feat(fork)\n: split\n", ["not-conventional"]),
            (b"feat\n(fork): split\n", ["not-conventional"]),
            (b"\xff\xfe\n", ["not-conventional"]),
            (b"x\nfeat(fork): second line\n", ["not-conventional"]),
            (b"x\0feat(fork): after nul\n", ["not-conventional"]),
            (b"", ["not-conventional"]),
        ],
    )
    def test_subject(self, history: History, check: Check, message: bytes, rules: list[str]) -> None:
        history.branch(LINE, "main")
        commit_object(history, message)

        assert [rule for rule, _ in check(history, LINE).rules] == rules

    def test_declared_encoding_is_followed(self, history: History, check: Check) -> None:
        commit_object(history, "feat(fork): ½ größer".encode("iso-8859-1"), encoding="ISO-8859-1")

        assert check(history).json["findings"][0]["subject"] == "feat(fork): ½ größer"

    @pytest.mark.parametrize("encoding", ["no-such-thing", "utf-16", "idna", "undefined", "hex"])
    def test_false_encoding_is_survived(self, history: History, check: Check, encoding: str) -> None:
        commit_object(history, b"feat(fork): x", encoding=encoding)

        assert check(history).status == 1

    def test_author_cannot_forge_a_header(self, history: History, check: Check) -> None:
        history.commit(
            "ci(fork): x", {"a": "1"}, on="work", parents=["main"], author="parent 0 <encoding hex>"
        )

        assert check(history).rules == [("path-outside-allowlist", "a")]


def commit_object(history: History, message: bytes, encoding: str = "") -> None:
    tree, parent = history.git("rev-parse", "main^{tree}"), history.sha("main")
    who = "A <a@example.com> 1700000000 +0000"
    header = f"tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n"
    header += f"encoding {encoding}\n" if encoding else ""
    raw = header.encode() + b"\n" + message
    sha = history.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw)
    history.branch("work", sha)


class TestRange:
    """The commits that belong to a pull request."""

    @pytest.fixture
    def clone(self, history: History, tmp_path: Path) -> History:
        history.commit("feat(fork): on the branch", {"a": "1"}, on="work", parents=["main"])
        history.git("checkout", "--quiet", "main")
        subprocess.run(["git", "clone", "--quiet", history.path, tmp_path / "clone"], check=True)
        return History(tmp_path / "clone")

    def test_base_alone_is_enough_on_a_laptop(self, clone: History, run: Command) -> None:
        clone.git("checkout", "--quiet", "work")

        result = run(clone, "check-pr", "--base", "main", "--output", "json")

        assert (result.status, result.json["commits"]) == (1, 1)

    def test_base_is_the_remote_branch_when_the_local_one_is_behind(
        self, clone: History, history: History, run: Command
    ) -> None:
        history.commit("feat: upstream moves", {"kine/client.py": "new\n"})
        clone.git("fetch", "--quiet")
        clone.git("checkout", "--quiet", "-b", "mine", "origin/main")

        assert run(clone, "check-pr", "--base", "main", "--output", "json").json["commits"] == 0

    @pytest.mark.parametrize("name", ["origin/main", "refs/heads/main", "main"])
    def test_base_can_be_written_in_several_ways(self, clone: History, run: Command, name: str) -> None:
        result = run(clone, "check-pr", "--base", name, "--head", "origin/work", "--output", "json")

        assert (result.json["base_ref"], result.json["branch"], result.status) == ("main", "trunk", 1)

    def test_detached_head_is_fine(self, clone: History, run: Command) -> None:
        clone.git("checkout", "--quiet", "--detach", "origin/work")

        assert run(clone, "check-pr", "--base", "main").status == 1

    def test_no_commits_is_fine(self, history: History, check: Check) -> None:
        assert check(history, "main", "main").status == 0

    def test_bare_repository_is_fine(self, history: History, tmp_path: Path, check: Check) -> None:
        sha = history.commit("feat(fork): on the branch", {"a": "1"}, on="work", parents=["main"])
        subprocess.run(["git", "clone", "--quiet", "--bare", history.path, tmp_path / "bare"], check=True)

        assert check(History(tmp_path / "bare")).json["head_sha"] == sha

    def test_work_tree_of_another_branch_is_fine(self, clone: History, tmp_path: Path, run: Command) -> None:
        clone.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "origin/work")

        assert run(History(tmp_path / "linked"), "check-pr", "--base", "main").status == 1

    def test_a_hook_s_environment_does_not_change_the_repository(
        self, clone: History, tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent")

        assert check(clone, head="origin/work").status == 1

    def test_replacement_objects_are_not_followed(self, history: History, check: Check) -> None:
        bad = history.commit("feat(fork): bad", {"a": "1"}, on="work", parents=["main"])
        good = history.commit("docs: good", {"docs/a": "1"}, on="good", parents=["main"])
        history.git("replace", bad, good)

        assert check(history).rules == [("product-on-trunk", None)]

    def test_sha256_repository(self, tmp_path: Path, check: Check) -> None:
        history = History.start(tmp_path / "sha256", "--object-format=sha256")
        history.commit("initial", {"README.md": "kine\n"})
        history.commit("ci(fork): x", {"a": "1"}, on="work", parents=["main"])
        history.commit("feat: y", {"b": "1"})
        history.commit("Merge", {"b": "1", "c": "evil"}, on="work", parents=["work", "main"])

        assert check(history).rules == [("path-outside-allowlist", "a"), ("merge-changes-path", "c")]


class TestRepositoryErrors:
    """Exit status 2, the problem and its fix; nothing on standard output."""

    def test_shallow_clone(self, history: History, tmp_path: Path, run: Command) -> None:
        history.commit("feat: two", {"a": "1"})
        url = f"file://{history.path}"
        subprocess.run(["git", "clone", "--quiet", "--depth=1", url, tmp_path / "shallow"], check=True)

        result = run(History(tmp_path / "shallow"), "check-pr", "--base", "main")

        assert (result.status, result.out) == (2, "")
        assert "git fetch --unshallow" in result.err
        assert "fetch-depth: 0" in result.err

    def test_no_repository(self, tmp_path: Path, run: Command) -> None:
        result = run(History(tmp_path), "check-pr", "--base", "main")

        assert (result.status, result.out) == (2, "")
        assert "is not a git repository" in result.err

    def test_unknown_base_branch(self, history: History, run: Command) -> None:
        result = run(history, "check-pr", "--base", "no-such-branch")

        assert (result.status, result.out) == (2, "")
        assert "git fetch origin" in result.err

    @pytest.mark.parametrize("sha", ["0" * 40, "--all", "-n1", "main..work", "$(id)", "a\nb", ""])
    def test_head_that_is_no_commit(self, history: History, run: Command, sha: str) -> None:
        result = run(history, "check-pr", "--base", "main", f"--head-sha={sha or ' '}")

        assert (result.status, result.out) == (2, "")
        assert "is not a commit" in result.err

    @pytest.mark.parametrize("base", ["main~1", "main^{commit}", "--all", "main:kine", "@{-1}"])
    def test_revision_syntax_is_no_branch_name(self, history: History, run: Command, base: str) -> None:
        result = run(history, "check-pr", f"--base={base}")

        assert (result.status, result.out) == (2, "")

    def test_nothing_given_outside_a_workflow(self, history: History, run: Command) -> None:
        result = run(history, "check-pr")

        assert (result.status, result.out) == (2, "")
        assert "--base main" in result.err

    def test_unborn_head(self, tmp_path: Path, run: Command) -> None:
        result = run(History.start(tmp_path / "empty"), "check-pr", "--base", "main")

        assert result.status == 2

    def test_missing_objects(self, history: History, run: Command) -> None:
        sha = history.commit("ci(fork): x", {"a": "1"}, on="work", parents=["main"])
        tree = history.git("rev-parse", f"{sha}^{{tree}}")
        (history.path / ".git/objects" / tree[:2] / tree[2:]).unlink()

        result = run(history, "check-pr", "--base", "main", "--head", "work")

        assert (result.status, result.out) == (2, "")


class TestInAWorkflow:
    """The event's file identifies the pull request."""

    @pytest.fixture
    def event(self, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        head = history.commit("feat(fork): x", {"a": "1"}, on="work", parents=["main"])
        history.commit("feat: main moves on", {"b": "1"})
        event = {
            "pull_request": {"base": {"ref": "main", "sha": history.sha("main~1")}, "head": {"sha": head}}
        }
        path = tmp_path / "event.json"
        path.write_text(json.dumps(event))
        monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(path))
        return path

    @pytest.mark.usefixtures("event")
    def test_defaults_come_from_the_event(self, history: History, run: Command) -> None:
        result = run(history, "check-pr", "--output", "json")

        assert result.json["base_sha"] == history.sha("main~1")
        assert result.json["head_sha"] == history.sha("work")
        assert result.rules == [("product-on-trunk", None)]

    @pytest.mark.usefixtures("event")
    def test_options_win_over_the_event(self, history: History, run: Command) -> None:
        history.branch("develop", "main~1")

        result = run(history, "check-pr", "--base-ref", "develop", "--head-sha", "main", "--output", "json")

        assert (result.json["branch"], result.json["head_sha"]) == ("not gated", history.sha("main"))

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"pull_request": {"base": 1}}', "\xff"])
    def test_broken_event_is_an_error(self, history: History, run: Command, event: Path, text: str) -> None:
        event.write_text(text, encoding="latin-1")

        result = run(history, "check-pr")

        assert (result.status, result.out) == (2, "")
        assert "GITHUB_EVENT_PATH" in result.err


def test_renaming_cannot_hide_behind_similarity(history: History, check: Check) -> None:
    body = "same\n" * 100
    history.commit("feat: a file", {"kine/big.py": body})
    history.commit(
        "docs(fork): move", {"kine/big.py": DELETED, "docs/big.md": body}, on="work", parents=["main"]
    )

    assert check(history).rules == [("path-outside-allowlist", "kine/big.py")]
