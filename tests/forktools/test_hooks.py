"""Git hooks, most called by git itself, the tables of cases called as git would call them."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.forktools.conftest import Command
from tests.forktools.git_history import History

LINE = "release/vcluster/v1.0.0"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def remote(history: History) -> History:
    """The remote: a trunk with a base tag, and a line with a commit."""
    history.commit("feat: base", {".forktools.toml": 'upstream = "trunk"\n'})
    history.tag("v1.0.0", "main")
    history.commit("feat: goes on", {"kine/more.py": "1\n"})
    history.branch(LINE, "v1.0.0")
    history.commit("feat(fork): ours", {"kine/ours.py": "1\n"}, on=LINE)
    history.git("config", "receive.denyCurrentBranch", "ignore")
    return history


@pytest.fixture
def clone(remote: History, tmp_path: Path, run: Command) -> History:
    """A clone with the hooks installed."""
    remote.git("clone", "--quiet", str(remote.path), str(tmp_path / "clone"))
    clone = History(tmp_path / "clone")
    assert run(clone, "hooks", "install").status == 0
    return clone


def git(history: History, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=history.path, capture_output=True, text=True, check=False)


def commit(history: History, subject: str, path: str = "kine/new.py", *options: str) -> tuple[bool, str]:
    """Runs `git commit`. Returns whether it succeeded, and its output."""
    (history.path / path).parent.mkdir(parents=True, exist_ok=True)
    (history.path / path).write_text(subject)
    history.git("add", "--all")
    done = git(history, "commit", "--quiet", "--message", subject, *options)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("branch", "subject", "path", "rule"),
    [
        (LINE, "fix(fork): a bug", "kine/a.py", ""),
        (LINE, "fix: a bug", "kine/a.py", "scope-not-fork"),
        (LINE, "wip", "kine/a.py", "not-conventional"),
        (LINE, "fixup! fix(fork): a bug", "kine/a.py", ""),
        (LINE, "squash! fix: a bug", "kine/a.py", "scope-not-fork"),
        ("main", "Fix a leak", "kine/a.py", ""),
        ("main", "docs(fork): a page", "docs/a.md", ""),
        ("main", "feat(fork): product", "kine/a.py", "product-on-trunk"),
        ("main", "ci(fork): reaches out", "kine/a.py", "path-outside-allowlist"),
        ("main", "ci( fork): nearly", "kine/a.py", "nearly-fork"),
    ],
)
def test_a_commit_is_judged_by_its_branch(
    remote: History, run: Command, tmp_path: Path, branch: str, subject: str, path: str, rule: str
) -> None:
    remote.git("checkout", "--quiet", "--force", branch)
    (remote.path / path).parent.mkdir(exist_ok=True)
    (remote.path / path).write_text(subject)
    remote.git("add", path)
    (tmp_path / "message").write_text(f"{subject}\n")

    result = run(remote, "hooks", "commit-msg", str(tmp_path / "message"))

    assert result.status == (0 if rule in ("", "nearly-fork") else 1)
    assert rule in result.out
    assert bool(rule) is ("how to fix" in result.out)


@pytest.mark.parametrize(("start", "passes"), [(f"origin/{LINE}", True), ("origin/main", False)])
def test_a_topic_is_judged_by_what_it_is_nearest_to(clone: History, start: str, passes: bool) -> None:
    clone.git("checkout", "--quiet", "--no-track", "-b", "topic", start)
    assert commit(clone, "feat(fork): product")[0] is passes
    if passes:
        assert commit(clone, "feat: product", "b")[0] is False


def test_where_two_are_equally_near_only_what_both_refuse_is_refused(clone: History) -> None:
    """At the base tag a topic branch may go into the trunk or the line."""
    clone.git("branch", "release/vcluster/v2.0.0", "origin/main")
    clone.git("checkout", "--quiet", "--no-track", "-b", "topic", "origin/main")
    assert commit(clone, "feat(fork): product", "a")[0]
    clone.git("reset", "--quiet", "--hard", "origin/main")
    assert commit(clone, "Fix as upstream does", "b")[0]


def test_comments_and_what_is_below_the_scissors_are_no_message(clone: History, tmp_path: Path) -> None:
    clone.git("checkout", "--quiet", LINE)
    message = tmp_path / "message"
    message.write_text(
        "# a comment\n\nfix(fork): a bug\n\n# ------------------------ >8 ------------------------\nwip\n"
    )
    done = git(clone, "commit", "--allow-empty", "--cleanup=scissors", "--file", str(message))
    assert done.returncode == 0, done.stdout


def test_only_the_paths_that_are_committed_count(clone: History) -> None:
    """`git commit PATH` uses a temporary index; the other change stays staged."""
    clone.git("checkout", "--quiet", "main")
    for path in ("kine/staged.py", "docs/a.md"):
        (clone.path / path).parent.mkdir(exist_ok=True)
        (clone.path / path).write_text("x")
        clone.git("add", path)
    done = git(clone, "commit", "--quiet", "--message", "docs(fork): a page", "docs/a.md")
    assert done.returncode == 0, done.stdout
    assert "kine/staged.py" in clone.git("diff", "--cached", "--name-only")


def test_a_sign_off_is_asked_for_before_the_commit(clone: History, remote: History) -> None:
    settings = 'upstream = "trunk"\nrequire-sign-off = true\n'
    remote.commit("ci: settings", {".forktools.toml": settings})
    clone.git("fetch", "--quiet")
    clone.git("checkout", "--quiet", LINE)
    made, said = commit(clone, "fix(fork): a bug")
    assert (made, "sign-off-missing" in said) == (False, True)
    assert commit(clone, "fix(fork): a bug", "kine/new.py", "--signoff")[0]


def test_a_merge_is_left_to_the_gate(clone: History) -> None:
    clone.git("checkout", "--quiet", LINE)
    clone.git("commit", "--quiet", "--allow-empty", "--message", "fix(fork): a bug")
    clone.git("checkout", "--quiet", "-b", "other", f"origin/{LINE}")
    clone.git("commit", "--quiet", "--allow-empty", "--message", "fix(fork): another")
    clone.git("merge", "--quiet", "--no-ff", "--no-edit", LINE)


# ---- pushes


def test_a_line_takes_the_fork_s_commits_only(clone: History) -> None:
    clone.git("checkout", "--quiet", LINE)
    commit(clone, "wip", "kine/a.py", "--no-verify")

    done = git(clone, "push", "origin", LINE)

    assert done.returncode != 0
    assert "not-conventional" in done.stdout + done.stderr
    clone.git("commit", "--quiet", "--amend", "--message", "fix(fork): a bug")
    assert git(clone, "push", "origin", LINE).returncode == 0


def test_a_topic_is_judged_before_a_pull_request_is_opened(clone: History) -> None:
    clone.git("checkout", "--quiet", "--no-track", "-b", "topic", "origin/main")
    commit(clone, "feat(fork): product", "kine/a.py", "--no-verify")

    assert "product-on-trunk" in git(clone, "push", "origin", "topic").stdout
    clone.git("commit", "--quiet", "--amend", "--message", "feat: product")
    assert git(clone, "push", "origin", "topic").returncode == 0
    assert git(clone, "push", "origin", "--delete", "topic").returncode == 0


@pytest.mark.parametrize(
    ("tag", "at", "rule"),
    [
        ("v1.0.0.vcluster.0", LINE, ""),
        ("v1.0.0.vcluster.7", LINE, "tag-number"),
        ("v1.0.0.vcluster.0", "main", "tag-not-on-line"),
        ("v1.0.0-hotfix", LINE, "tag-scheme"),
        ("v1.1.0", "main", ""),
        ("v1.1.0", LINE, "base-tag-off-trunk"),
        ("nightly", "main", ""),
    ],
)
def test_a_release_tag_is_judged_before_it_is_pushed(
    remote: History, run: Command, monkeypatch: pytest.MonkeyPatch, tag: str, at: str, rule: str
) -> None:
    remote.git("tag", tag, at)
    pushed = f"refs/tags/{tag} {remote.sha(tag)} refs/tags/{tag} {'0' * 40}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(pushed))

    result = run(remote, "hooks", "pre-push", "origin", "url")

    assert result.status == (1 if rule else 0)
    assert rule in result.out


def test_a_tag_pushed_under_a_release_s_name_is_refused(clone: History) -> None:
    clone.git("tag", "v1.0.0.vcluster.0", f"origin/{LINE}")
    done = git(clone, "push", "origin", "origin/main:refs/tags/v1.0.0.vcluster.0")
    assert done.returncode != 0
    assert "under its own name" in done.stdout + done.stderr


# ---- installing


def test_another_s_hook_stays(clone: History, run: Command) -> None:
    hook = clone.path / ".git/hooks/commit-msg"
    hook.write_text("#!/bin/sh\nexit 0\n")

    refused = run(clone, "hooks", "install")

    assert refused.status == 2
    assert "--force" in refused.err
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    assert run(clone, "hooks", "install", "--force").status == 0
    assert hook.with_name("commit-msg.old").read_text() == "#!/bin/sh\nexit 0\n"
    assert run(clone, "hooks", "uninstall").status == 0
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    assert not (clone.path / ".git/hooks/pre-push").exists()


def test_installing_twice_is_installing_once(clone: History, run: Command) -> None:
    before = sorted(path.name for path in (clone.path / ".git/hooks").iterdir())
    assert run(clone, "hooks", "install").status == 0
    assert sorted(path.name for path in (clone.path / ".git/hooks").iterdir()) == before


def test_hooks_go_where_git_looks_for_them(clone: History, run: Command) -> None:
    clone.git("config", "core.hooksPath", "own hooks")
    assert run(clone, "hooks", "install").status == 0
    assert (clone.path / "own hooks/pre-push").exists()


def test_a_place_for_all_repositories_is_left_alone(
    clone: History, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[core]\n\thooksPath = {tmp_path / 'shared'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))

    result = run(clone, "hooks", "install")

    assert result.status == 2
    assert "git config --local core.hooksPath" in result.err
    assert not (tmp_path / "shared").exists()


def test_a_hook_whose_forktools_is_gone_says_so_and_lets_pass(clone: History) -> None:
    for name in ("commit-msg", "pre-push"):
        path = clone.path / ".git/hooks" / name
        lines = [
            "python=/nowhere" if line.startswith("python=") else line for line in path.read_text().split("\n")
        ]
        path.write_text("\n".join(lines))
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "wip"],
        cwd=clone.path, env=bare, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "nothing was checked" in done.stderr


def test_the_work_tree_s_own_forktools_is_not_run(clone: History) -> None:
    """A checked-out branch may contain one: it is judged, not executed."""
    own = clone.path / "forktools"
    own.mkdir()
    (own / "__init__.py").write_text("raise SystemExit('run!')\n")
    clone.git("checkout", "--quiet", LINE)
    made, said = commit(clone, "wip")
    assert (made, "run!" in said, "not-conventional" in said) == (False, False, True)


# ---- pre-commit


def test_pre_commit_knows_the_hooks() -> None:
    listed = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert {name: hook["stages"] for name, hook in listed.items()} == {
        "forktools-commit-msg": ["commit-msg"],
        "forktools-pre-push": ["pre-push"],
    }
    assert all(hook["entry"].startswith("forktools hooks ") for hook in listed.values())


def test_pre_commit_names_the_push_in_variables(
    clone: History, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.git("checkout", "--quiet", LINE)
    commit(clone, "wip", "kine/a.py", "--no-verify")
    monkeypatch.setenv("PRE_COMMIT_TO_REF", clone.sha("HEAD"))
    monkeypatch.setenv("PRE_COMMIT_FROM_REF", clone.sha("HEAD~1"))
    monkeypatch.setenv("PRE_COMMIT_REMOTE_BRANCH", f"refs/heads/{LINE}")

    result = run(clone, "hooks", "pre-push")

    assert result.status == 1
    assert "not-conventional" in result.out
