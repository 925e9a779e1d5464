"""A user's git configuration, attributes and refs do not change verdicts or cuts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History, Link, Symlink
from tests.forktools.synthetic_fork import APP_1_1, NEW, OLD, edited, upstream

SETTINGS = {
    "core.quotePath": "true",
    "core.hooksPath": "/nonexistent",
    "core.commentChar": ";",
    "core.autocrlf": "true",
    "commit.cleanup": "strip",
    "commit.template": "/nonexistent",
    "commit.verbose": "true",
    "diff.renames": "copies",
    "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true",
    "diff.context": "0",
    "diff.algorithm": "histogram",
    "diff.external": "false",
    "diff.submodule": "log",
    "diff.suppressBlankEmpty": "true",
    "diff.relative": "true",
    "diff.wordRegex": ".",
    "i18n.commitEncoding": "ISO-8859-1",
    "i18n.logOutputEncoding": "ISO-8859-1",
    "log.mailmap": "true",
    "log.showSignature": "true",
    "log.showRoot": "false",
    "log.diffMerges": "first-parent",
    "format.pretty": "fuller",
    "merge.conflictStyle": "diff3",
    "merge.renames": "false",
    "merge.renormalize": "true",
    "patchid.stable": "true",
    "rerere.enabled": "true",
    "rerere.autoUpdate": "true",
    "submodule.recurse": "true",
    "color.ui": "always",
    "column.ui": "always",
    "core.fsmonitor": "/nonexistent",
    "core.splitIndex": "true",
    "sequence.editor": "false",
    "core.editor": "false",
    "trailer.separators": "#",
}


@pytest.fixture
def fork(history: History) -> History:
    """A line with an octopus merge, a submodule, a symlink, a mode change, and text that is not ASCII."""
    upstream(history)
    message = "feat(fork): größer ½\n\n#1 stays\n; and this\n\n\n\nso do the empty lines   \n"
    history.commit(message, {"größe.py": "1\n", b"caf\xe9": "1\n"}, on=OLD)
    history.commit("chore(fork): link", {"s": Link("1" * 40), "l": Symlink("app.py")}, on=OLD)
    history.commit("fix(fork): thirty ½", {"app.py": edited(30, "ours")}, on=OLD, author="Ö <o@example.com>")
    history.commit("fix(fork): last", {"last.py": "1\n\n\n"}, on=OLD)
    return history


@pytest.fixture
def bent(fork: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> History:
    """The same repository, with every setting above, a mailmap, a graft and a replacement."""
    lines = "".join(f'[{k.split(".")[0]}]\n\t{k.split(".")[1]} = "{v}"\n' for k, v in SETTINGS.items())
    (tmp_path / "config").write_text(lines)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    (fork.path / ".mailmap").write_text("Someone Else <else@example.com> <o@example.com>\n")
    (fork.path / ".git/info/attributes").write_text("*.py -diff\n")
    return fork


def resolved_line(history: History, run: Command) -> Result:
    stopped = run(history, "replay", "apply", "--to=v1.1.0", "--output=json")
    assert stopped.out, stopped.err
    assert stopped.json["conflicts"] == ["app.py"], stopped
    place = Path(stopped.json["worktree"])
    (place / "app.py").write_text(edited(30, "both ½", APP_1_1))
    subprocess.run(["git", "add", "app.py"], cwd=place, check=True)
    return run(history, "replay", "apply", "--continue", "--accept=both", "--output=json")


def messages(history: History) -> bytes:
    shas = history.git("rev-list", "--reverse", f"v1.1.0..{NEW}").split()
    return b"".join(
        subprocess.run(
            ["git", "cat-file", "commit", s], cwd=history.path, capture_output=True, check=True
        ).stdout
        for s in shas
    )


def test_a_line_is_the_same_line_under_any_settings(bent: History, run: Command) -> None:
    assert resolved_line(bent, run).status == 0
    made = messages(bent)
    assert "größer ½\n\n#1 stays\n; and this\n\n\n\nso do the empty lines".encode() in made
    assert "thirty ½".encode() in made
    assert b"encoding " not in made
    assert b"author \xc3\x96 <o@example.com>" in made
    assert run(bent, "replay", "verify", "--to=v1.1.0", "--strict").status == 0


def test_a_drop_is_recorded_in_utf8(bent: History, run: Command) -> None:
    sha = bent.sha(f"{OLD}~1")
    assert run(bent, "replay", "apply", "--to=v1.1.0", f"--drop={sha}=größer", "--output=json").status == 0
    assert "größer\n".encode() in messages(bent)
    assert run(bent, "replay", "verify", "--to=v1.1.0", "--strict").status == 0


def test_check_pr_under_any_settings(bent: History, run: Command) -> None:
    bent.commit(
        "ci(fork): mode and link", {"l": Symlink("x"), b"caf\xe9/x": "1"}, on="work", parents=["main"]
    )
    result = run(bent, "check-pr", "--base=main", "--head=work", "--output=json")
    assert result.rules == [("path-outside-allowlist", "caf\\xe9/x"), ("path-outside-allowlist", "l")]


def test_mode_change_alone_is_a_change(history: History, run: Command) -> None:
    history.commit("ci(fork): x", {"kine/server.py": "one\ntwo\nthree\n"}, on="work", parents=["main"])
    history.git("read-tree", "work")
    blob = history.git("rev-parse", "work:kine/server.py")
    history.git("update-index", "--cacheinfo", f"100755,{blob},kine/server.py")
    tree = history.git("write-tree")
    sha = history.git("commit-tree", tree, "-p", "main", "-m", "ci(fork): executable")
    history.branch("work", sha)
    result = run(history, "check-pr", "--base=main", "--head=work", "--output=json")
    assert result.rules == [("path-outside-allowlist", "kine/server.py")]


def test_grafts_hide_nothing(history: History, run: Command) -> None:
    history.commit("feat(fork): bad", {"a": "1"}, on="work", parents=["main"])
    tip = history.commit("docs: good", {"docs/a": "1"}, on="work")
    (history.path / ".git/info/grafts").write_text(f"{tip} {history.sha('main')}\n")
    assert run(history, "check-pr", "--base=main", "--head=work", "--output=json").rules == [
        ("product-on-trunk", None)
    ]


def test_criss_cross_merges_that_only_join_pass(history: History, run: Command) -> None:
    history.commit("feat: a", {"a": "1\n"})
    history.commit("docs: b", {"b": "1\n"}, on="work", parents=["main~1"])
    a, b = history.sha("main"), history.sha("work")
    history.commit("Merge work", {"b": "1\n"}, parents=[a, b])
    history.commit("Merge main", {"a": "1\n"}, on="work", parents=[b, a])
    history.commit("feat: more", {"a": "2\n"})
    history.commit("Merge again", {"a": "2\n"}, on="work", parents=["work", "main"])
    assert run(history, "check-pr", "--base=main", "--head=work", "--output=json").rules == []
    history.commit("Merge evil", {"evil": "1"}, on="work", parents=["work", a])
    assert run(history, "check-pr", "--base=main", "--head=work", "--output=json").rules == [
        ("merge-changes-path", "evil")
    ]


def test_signing_that_fails_is_said_and_not_a_conflict(fork: History, run: Command) -> None:
    fork.git("config", "commit.gpgSign", "true")
    fork.git("config", "gpg.program", "false")
    result = run(fork, "replay", "apply", "--to=v1.1.0")
    assert result.status == 1
    assert "failed to sign" in result.out
    assert run(fork, "replay", "apply", "--abort").status == 0
    assert run(fork, "replay", "plan", "--to=v1.1.0").status == 0


def start(history: History, **more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "forktools", "replay", "apply", "--to=v1.1.0", "-C", str(history.path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | more
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )


@pytest.fixture
def long(history: History) -> History:
    """A line of 300 commits without conflicts."""
    upstream(history)
    stream = f"reset refs/heads/{OLD}\nfrom {history.sha('v1.0.0')}\n"
    for n in range(300):
        stream += f"commit refs/heads/{OLD}\ncommitter C <c@example.com> {n} +0000\n"
        stream += f"data <<E\nfix(fork): {n}\nE\nM 100644 inline f{n % 7}\ndata <<E\n{n}\nE\n"
    history.git("fast-import", "--quiet", "--force", stdin=stream.encode())
    return history


def test_lock_that_a_killed_git_left_is_named_and_kept(fork: History, run: Command) -> None:
    lock = fork.path / ".git/packed-refs.lock"
    lock.touch()

    result = run(fork, "replay", "apply", "--to=v1.1.0")

    assert (result.status, result.out) == (2, "")
    assert str(lock) in result.err
    assert "remove the file" in result.err
    assert lock.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_mid_pick_goes_on_or_is_taken_back(
    long: History, run: Command, how: signal.Signals
) -> None:
    before = long.state()
    for last in ("--abort", "--continue"):
        process = start(long)
        deadline = time.monotonic() + 60
        worktree = long.path.with_name("work.v1.1.0")
        while not list(worktree.glob("f[0-6]")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, how)
        _, said = process.communicate()
        assert not long.has(f"refs/heads/{NEW}"), said
        if how is signal.SIGINT:
            assert process.returncode == 2, said
            assert b"--continue" in said
            assert b"Traceback" not in said
        if (lock := long.path / ".git/packed-refs.lock").exists():  # git may be killed while holding it
            refused = run(long, "replay", "apply", last)
            assert (refused.status, str(lock) in refused.err) == (2, True)
            lock.unlink()
        assert run(long, "replay", "apply", last, "--output=json").status == 0
        assert not worktree.exists()
        if last == "--abort":
            assert long.state() == before
    assert long.subjects(f"v1.1.0..{NEW}") == long.subjects(f"v1.0.0..{OLD}")
