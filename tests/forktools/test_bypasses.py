"""Regression tests for bypasses of the policy: commits, bases and settings that once hid a violation."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from forktools.commits import malformed_header
from forktools.policy import nearly_fork, parse_subject
from tests.forktools.git_history import History

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.forktools.conftest import Command, Result

    Check = Callable[..., Result]

LINE = "release/vcluster/v1.0.0"


def forged(history: History, sha: str, *more: str, on: str, message: str = "") -> str:
    """Rewrites the commit `sha` with `more` lines at the end of its header, as the tip of `on`."""
    header, _, text = history.git("cat-file", "commit", sha).partition("\n\n")
    raw = "\n".join([header, *more, "", message or text, ""]).encode()
    made = history.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw)
    history.git("update-ref", f"refs/heads/{on}", made)
    return made


class TestForgedHeaders:
    """git reads parents only in their place in the header; the policy does too, and rejects the commit."""

    @pytest.fixture
    def product(self, history: History) -> str:
        return history.commit("ci(fork): tooling", {"kine/p.py": "1"}, on="work", parents=["main"])

    def test_a_second_parent_after_the_committer_makes_no_merge(
        self, history: History, check: Check, product: str
    ) -> None:
        forged(history, product, f"parent {history.sha('main')}", on="work")

        result = check(history)

        assert result.rules == [("malformed-commit", None), ("path-outside-allowlist", "kine/p.py")]

    def test_nor_on_a_line(self, history: History, check: Check) -> None:
        history.branch(LINE, "main")
        sha = history.commit("wip", {"kine/p.py": "1"}, on="work", parents=["main"])
        forged(history, sha, f"parent {history.sha('main')}", on="work")

        assert check(history, base=LINE).rules == [("malformed-commit", None), ("not-conventional", None)]

    def test_nor_in_the_inventory(self, history: History, run: Command) -> None:
        history.tag("v1.0.0", "main")
        history.branch(LINE, "main")
        sha = history.commit("feat(fork): one", {"kine/p.py": "1"}, on=LINE)
        forged(history, sha, f"parent {history.sha('main')}", on=LINE)

        result = run(history, "replay", "inventory", "v1.0.0", "--output", "json")

        assert result.status == 2
        assert "after committer" in result.err

    @pytest.mark.parametrize("codec", ["unicode_escape", "punycode", "utf_7", "rot13", "idna"])
    def test_an_encoding_that_git_does_not_know_turns_no_bytes_into_a_scope(
        self, history: History, check: Check, codec: str
    ) -> None:
        sha = history.commit("x", {"kine/p.py": "1"}, on="work", parents=["main"])
        forged(history, sha, f"encoding {codec}", on="work", message=r"fix\x28fork\x29: y")
        history.branch(LINE, "main")

        assert check(history, base=LINE).rules == [("not-conventional", None)]

    def test_two_encodings_are_refused(self, history: History, check: Check, product: str) -> None:
        forged(history, product, "encoding UTF-8", "encoding ISO-8859-1", on="work")

        assert ("malformed-commit", None) in check(history).rules

    @pytest.mark.parametrize(
        "header",
        [
            b"tree 1\nauthor a\ncommitter c",
            b"tree 1\nparent 2\nparent 3\nauthor a\ncommitter c\nencoding x\ngpgsig -----\n parent 4\n -----",
            b"tree 1\nauthor a\ncommitter c\nmergetag object 1\n type commit\n tree 5",
        ],
    )
    def test_sound_headers(self, header: bytes) -> None:
        assert malformed_header(header + b"\n\nparent 9\n") == ""

    @pytest.mark.parametrize(
        "header",
        [
            b"parent 2\ntree 1\nauthor a\ncommitter c",
            b"tree 1\nauthor a\nparent 2\ncommitter c",
            b"tree 1\nauthor a\nauthor b\ncommitter c",
            b"tree 1\nauthor a\ncommitter c\ntree 2",
            b"tree 1\nauthor a\0\ncommitter c",
            b"",
        ],
    )
    def test_malformed_headers(self, header: bytes) -> None:
        assert malformed_header(header + b"\n\ntext\n")


class TestBase:
    """The commits judged are those that the branch lacks, whatever base the event names."""

    @pytest.fixture
    def retargeted(self, history: History) -> History:
        """A pull request with work on a line's commits, retargeted to main."""
        history.branch(LINE, "main")
        history.commit("feat(fork): product", {"kine/p.py": "1"}, on=LINE)
        history.branch("work", LINE)
        history.commit("ci(fork): tooling", {".github/x": "1"}, on="work")
        history.commit("feat: upstream", {"kine/u.py": "1"})
        return history

    def test_a_base_outside_the_branch_is_refused(self, retargeted: History, run: Command) -> None:
        base = retargeted.sha(LINE)

        result = run(retargeted, "check-pr", "--base-ref=main", f"--base-sha={base}", "--head-sha=work")

        assert (result.status, result.out) == (2, "")
        assert "is not in main" in result.err

    def test_all_that_the_branch_lacks_is_judged(self, retargeted: History, check: Check) -> None:
        assert check(retargeted, base_sha="main~1").rules == [("product-on-trunk", None)]

    def test_what_the_branch_has_got_meanwhile_is_not(self, history: History, check: Check) -> None:
        start = history.sha("main")
        history.commit("feat: upstream", {"kine/u.py": "1"})
        history.branch("work", "main")
        history.commit("ci(fork): tooling", {".github/x": "1"}, on="work")

        assert check(history, base_sha=start).json["commits"] == 1

    @pytest.mark.parametrize("head", ["main", "main~1"])
    def test_a_base_at_or_after_the_head_is_refused(self, history: History, run: Command, head: str) -> None:
        history.commit("feat: upstream", {"kine/u.py": "1"})

        result = run(history, "check-pr", "--base-ref=main", "--base-sha=main", f"--head-sha={head}")

        assert (result.status, result.out) == (2, "")

    def test_a_pull_request_that_was_force_pushed_meanwhile_is_reported(
        self, history: History, run: Command
    ) -> None:
        result = run(history, "check-pr", "--base-ref=main", f"--head-sha={'1' * 40}")

        assert result.status == 2
        assert "force-pushed" in result.err


class TestSettings:
    """No attribute, setting or variable changes a verdict, and none of their commands is executed."""

    @pytest.fixture
    def evil(self, history: History) -> History:
        """A merge that keeps one side of conflicting lines and adds a path, both outside the allowlist."""
        history.commit(
            "feat: theirs", {"kine/server.py": "one\ntheirs\nthree\n"}, on="theirs", parents=["main"]
        )
        history.commit("feat: ours", {"kine/server.py": "one\nours\nthree\n"}, on="work", parents=["main"])
        merged = {"kine/server.py": "one\nours\ntheirs\nthree\n", "kine/evil.py": "1"}
        history.commit("Merge theirs", merged, on="work", parents=["work", "theirs"])
        return history

    def verdict(self, history: History, check: Check) -> object:
        document = check(history).json
        return document["findings"]

    @pytest.mark.parametrize("attributes", ["* merge=union\n", "* binary\n", "* merge=mine -diff -text\n"])
    @pytest.mark.parametrize("place", [".gitattributes", ".git/info/attributes"])
    def test_attributes(self, evil: History, check: Check, attributes: str, place: str) -> None:
        before = self.verdict(evil, check)
        evil.git("config", "merge.mine.driver", f"touch {evil.path}/executed")
        (evil.path / place).parent.mkdir(exist_ok=True)
        (evil.path / place).write_text(attributes)

        assert self.verdict(evil, check) == before != []
        assert not (evil.path / "executed").exists()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("merge.default", "union"),
            ("merge.renames", "false"),
            ("merge.directoryRenames", "true"),
            ("merge.conflictStyle", "zdiff3"),
            ("diff.orderFile", "/nonexistent"),
            ("diff.renames", "copies"),
            ("diff.noprefix", "true"),
            ("diff.mnemonicPrefix", "true"),
            ("diff.context", "0"),
            ("diff.interHunkContext", "50"),
            ("diff.algorithm", "patience"),
            ("diff.external", "false"),
            ("diff.ignoreSubmodules", "all"),
            ("diff.suppressBlankEmpty", "true"),
            ("diff.relative", "true"),
            ("core.quotePath", "false"),
            ("core.abbrev", "4"),
            ("core.attributesFile", "attributes"),
            ("core.ignoreCase", "true"),
            ("log.showSignature", "true"),
            ("log.follow", "true"),
            ("log.diffMerges", "off"),
            ("log.mailmap", "true"),
            ("log.showRoot", "false"),
            ("i18n.logOutputEncoding", "UTF-16"),
            ("i18n.commitEncoding", "ISO-8859-1"),
            ("color.ui", "always"),
            ("format.pretty", "oneline"),
            ("patchid.stable", "true"),
            ("patchid.verbatim", "false"),
            ("commitGraph.changedPaths", "true"),
        ],
    )
    def test_configuration(self, evil: History, check: Check, name: str, value: str) -> None:
        before = self.verdict(evil, check)
        (evil.path / "attributes").write_text("* merge=union\n")
        evil.git("config", name, value)

        assert self.verdict(evil, check) == before != []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("GIT_DIFF_OPTS", "-u0"),
            ("GIT_EXTERNAL_DIFF", "false"),
            ("GIT_ATTR_SOURCE", "HEAD"),
            ("GIT_LITERAL_PATHSPECS", "1"),
            ("GIT_REPLACE_REF_BASE", "refs/heads/"),
            ("GIT_DEFAULT_HASH", "sha256"),
        ],
    )
    def test_variables(
        self, evil: History, check: Check, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        before = self.verdict(evil, check)
        monkeypatch.setenv(name, value)

        assert self.verdict(evil, check) == before != []

    def test_configuration_in_variables(
        self, evil: History, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.verdict(evil, check)
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "merge.default")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "union")

        assert self.verdict(evil, check) == before != []

    def test_a_partial_clone_is_refused(self, history: History, tmp_path: Path, run: Command) -> None:
        history.git("config", "uploadpack.allowFilter", "true")
        url = f"file://{history.path}"
        subprocess.run(["git", "clone", "-q", "--filter=blob:none", url, tmp_path / "part"], check=True)

        result = run(History(tmp_path / "part"), "check-pr", "--base=main")

        assert result.status == 2
        assert "leaves objects out" in result.err


@pytest.mark.parametrize(
    "subject",
    [
        'Revert "feat(fork): x"',
        'revert: "feat(fork): x"',
        "fixup! feat(fork): x",
        "squash! fixup! feat(fork): x",
        "feat(ci,fork): x",
        "feat!(fork): x",
        "\ufefffeat(fork): x",
        "feat\uff08fork\uff09: x",
        "\uff46eat(fork): x",
        "feat\u200b(fork): x",
        "Feat(Fork): x",
        "feat(f\u043er\u043a): x",
        "feat(f\u03bfrk): x",
        "feat[fork]: x",
    ],
)
def test_what_a_reader_takes_for_the_fork_s_is_hinted_at(subject: str) -> None:
    parsed = parse_subject(subject)
    assert parsed is None or not parsed.is_fork
    assert nearly_fork(subject)


@pytest.mark.parametrize(
    "subject", ["feat: a fork of it", "Revert the fork", "docs(forks): x", "fork: (fork)"]
)
def test_what_a_reader_does_not_is_not(subject: str) -> None:
    assert not nearly_fork(subject)


@pytest.mark.parametrize("text", ["\u200b", "\u2060\u00ad", "\u3000"])
def test_a_subject_that_shows_nothing_is_none(text: str) -> None:
    assert parse_subject(f"feat(fork): {text}") is None


def test_on_a_line_git_s_own_revert_is_told_how_to_be_written(history: History, check: Check) -> None:
    history.branch(LINE, "main")
    history.commit('Revert "feat(fork): the thing"', {"kine/p.py": "1"}, on="work", parents=["main"])

    [finding] = check(history, base=LINE).json["findings"]

    assert "revert(fork): the thing" in finding["message"]


class TestWorkflow:
    """In a GitHub job, every kind of failure is reported as an annotation."""

    def test_a_repository_that_cannot_answer_is_annotated(
        self, history: History, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")

        result = run(history, "check-pr", "--base-ref=nowhere")

        assert result.status == 2
        assert "::error title=forktools::there is no branch nowhere" in result.err

    def test_the_event_does_not_matter_when_all_is_given(
        self, history: History, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history.commit("ci(fork): tooling", {".github/x": "1"}, on="work", parents=["main"])
        monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
        monkeypatch.setenv("GITHUB_EVENT_PATH", "/nonexistent")

        assert check(history, base_sha="main").status == 0


def test_the_version_is_printed(run: Command) -> None:
    assert run(None, "--version").out.startswith("forktools ")


def test_without_git_the_command_says_so(history: History) -> None:
    done = subprocess.run(
        [
            "/usr/bin/env",
            "-i",
            f"PATH={history.path}",
            sys.executable,
            "-m",
            "forktools",
            "check-pr",
            "--base=main",
        ],
        cwd=history.path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "git" in done.stderr
