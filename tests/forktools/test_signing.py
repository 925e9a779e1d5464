"""Signed commits, signed tags and sign-offs, when the settings require them; keys made for these tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History

LINE = "release/vcluster/v1.0.0"


@dataclass(frozen=True)
class Keys:
    """Two SSH keys; only the first belongs to a signer."""

    known: Path
    stranger: Path

    @property
    def signers(self) -> str:
        return f"ada@example.com {self.known.with_suffix('.pub').read_text()}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    place = tmp_path_factory.mktemp("keys")
    for name in ("known", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(place / name)]
        subprocess.run(command, check=True)
    return Keys(place / "known", place / "stranger")


def fork(history: History, signers: str, *settings: str) -> History:
    """A line cut from a trunk with these settings."""
    history.commit(
        "ci: settings",
        {
            ".forktools.toml": "".join(f"{name} = true\n" for name in settings) + 'upstream = "trunk"\n',
            ".github/allowed_signers": signers,
        },
    )
    history.tag("v1.0.0", "main")
    history.branch(LINE, "main")
    history.branch("work", LINE)
    history.git("checkout", "--quiet", "work")
    return history


def write(history: History, *options: str, key: Path | None = None, message: str = "fix(fork): x") -> None:
    """Creates a commit with git itself, so that git signs it."""
    format_ = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}") if key else ()
    sign = ("--gpg-sign",) if key else ()
    history.git(*format_, "commit", "--quiet", "--allow-empty", "--message", message, *sign, *options)


def check(history: History, run: Command, base: str = LINE) -> Result:
    return run(history, "check-pr", "--base", base, "--head", "work", "--output", "json")


def test_a_signer_s_commit_passes(history: History, run: Command, keys: Keys) -> None:
    fork(history, keys.signers, "require-signed-commits")
    write(history, key=keys.known)

    assert check(history, run).rules == []


@pytest.mark.parametrize(
    ("kind", "why"), [("none", "no signature"), ("stranger", "not one of the signers'"), ("forged", "")]
)
def test_another_s_commit_does_not(history: History, run: Command, keys: Keys, kind: str, why: str) -> None:
    fork(history, keys.signers, "require-signed-commits")
    write(history, key={"stranger": keys.stranger, "forged": keys.known}.get(kind))
    if kind == "forged":  # carries the signature of another text
        raw = history.git("cat-file", "commit", "HEAD").replace("fix(fork): x", "feat(fork): y")
        sha = history.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=f"{raw}\n".encode())
        history.git("reset", "--quiet", "--hard", sha)

    result = check(history, run)

    assert result.rules == [("commit-unsigned", None)]
    assert why in result.json["findings"][0]["message"]


def test_a_key_that_only_this_machine_trusts_does_not_count(
    history: History, run: Command, keys: Keys, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text(f"me@example.com {keys.stranger.with_suffix('.pub').read_text()}")
    fork(history, keys.signers, "require-signed-commits")
    history.git("config", "gpg.ssh.allowedSignersFile", str(own))
    write(history, key=keys.stranger)

    assert check(history, run).rules == [("commit-unsigned", None)]


def test_a_pull_request_does_not_bring_its_own_signer(history: History, run: Command, keys: Keys) -> None:
    fork(history, keys.signers, "require-signed-commits")
    (history.path / ".github").mkdir(exist_ok=True)
    (history.path / ".github/allowed_signers").write_text(
        f"eve@example.com {keys.stranger.with_suffix('.pub').read_text()}"
    )
    history.git("add", ".github")
    write(history, key=keys.stranger)

    assert check(history, run).rules == [("commit-unsigned", None)]


def test_upstream_s_commits_on_the_trunk_need_nothing(history: History, run: Command, keys: Keys) -> None:
    fork(history, keys.signers, "require-signed-commits", "require-sign-off")
    history.commit("Fix a leak", {"a": "1"}, on="work")
    history.commit("docs(fork): a page", {"docs/a": "1"}, on="work")

    assert check(history, run, "main").rules == [("sign-off-missing", None), ("commit-unsigned", None)]


def test_without_the_signers_file_it_is_said_what_to_add(history: History, run: Command) -> None:
    fork(history, "", "require-signed-commits")
    history.commit("ci: no file", {".github/allowed_signers": None})
    write(history)

    result = run(history, "check-pr", "--base", LINE, "--head", "work")

    assert result.status == 2
    assert ".github/allowed_signers is not beside them" in result.err
    assert "ssh-ed25519" in result.err


def test_openpgp_keys_count_too(
    history: History, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub signs its merges with one."""
    home = Path("/tmp") / f"g{os.getpid()}"  # short, because the path of the agent's socket is limited
    home.mkdir(mode=0o700)
    try:
        monkeypatch.setenv("GNUPGHOME", str(home))
        gpg = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        for name in ("ada@example.com", "eve@example.com"):
            subprocess.run([*gpg, "--quick-generate-key", name, "ed25519", "sign"], check=True)
        exported = subprocess.run(
            ["gpg", "--export", "--armor", "ada@example.com"], check=True, capture_output=True, text=True
        ).stdout
        fork(history, f"# GitHub's\n{exported}", "require-signed-commits")
        for name, rules in (("ada@example.com", []), ("eve@example.com", [("commit-unsigned", None)])):
            history.git(
                "-c", f"user.signingKey={name}",
                "commit", "--quiet", "--allow-empty", "-S", "-m", "fix(fork): x",
            )  # fmt: skip
            assert check(history, run).rules == rules
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)
        subprocess.run(["rm", "-rf", str(home)], check=True)


# ---- lines and releases

GATES = (
    ("check-tag", "v1.0.0.vcluster.0"),
    ("replay", "verify", "--to=v1.0.0"),
    ("audit",),
)


@pytest.mark.parametrize("command", GATES, ids=lambda command: command[0])
def test_every_gate_asks_a_line_for_what_check_pr_asks(
    history: History, run: Command, keys: Keys, command: tuple[str, ...]
) -> None:
    """The commit was pushed past the check of pull requests."""
    fork(history, keys.signers, "require-signed-commits", "require-sign-off")
    history.commit("fix(fork): x", {"a": "1"}, on=LINE)

    result = run(history, *command, "--output=json")

    assert (result.status, result.rules) == (1, [("sign-off-missing", None), ("commit-unsigned", None)])


@pytest.mark.parametrize("command", GATES, ids=lambda command: command[0])
def test_what_a_line_had_before_it_was_asked_for_passes(
    history: History, run: Command, keys: Keys, command: tuple[str, ...]
) -> None:
    fork(history, keys.signers, "require-signed-commits", "require-sign-off")
    before = history.commit("fix(fork): x", {"a": "1"}, on=LINE)
    more = f'upstream = "trunk"\nrequire-signed-commits = true\nsigned-after = ["{before}"]\n'
    history.commit("ci: begin", {".forktools.toml": more})
    assert run(history, *command, "--output=json").rules == []

    history.commit("fix(fork): y", {"a": "2"}, on=LINE)

    assert run(history, *command, "--output=json").rules == [("commit-unsigned", None)]


def test_a_line_that_is_cut_is_signed_and_signed_off(history: History, run: Command, keys: Keys) -> None:
    fork(history, keys.signers, "require-signed-commits", "require-sign-off")
    history.commit("feat: more", {"b": "1"})
    history.tag("v1.1.0", "main")
    signed_off = "\n\nSigned-off-by: A U Thor <author@example.com>\n"
    history.commit(f"feat(fork): ours{signed_off}", {"a": "1"}, on=LINE)
    left = history.commit(f"fix(fork): not needed{signed_off}", {"c": "1"}, on=LINE)
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", str(keys.known))):
        history.git("config", name, value)

    cut = run(history, "replay", "apply", "--from=v1.0.0", "--to=v1.1.0", f"--drop={left}=why")

    assert cut.status == 0, cut.err
    assert run(history, "replay", "verify", "--from=v1.0.0", "--to=v1.1.0", "-o", "json").rules == []


# ---- tags


def tag(history: History, keys: Keys, kind: str) -> None:
    key = keys.stranger if kind == "stranger" else keys.known
    sign = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}")
    if kind == "lightweight":
        history.git("tag", "v1.0.0.vcluster.0", LINE)
    elif kind == "annotated":
        history.git("tag", "--annotate", "-m", "x", "v1.0.0.vcluster.0", LINE)
    elif kind == "renamed":
        history.git(*sign, "tag", "--sign", "-m", "x", "v0.9.0.vcluster.0", LINE)
        history.git("update-ref", "refs/tags/v1.0.0.vcluster.0", "v0.9.0.vcluster.0")
        history.git("tag", "--delete", "v0.9.0.vcluster.0")
    else:
        history.git(*sign, "tag", "--sign", "-m", "x", "v1.0.0.vcluster.0", LINE)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("signed", None),
        ("lightweight", "lightweight"),
        ("annotated", "no signature"),
        ("stranger", "not one of the signers'"),
        ("renamed", "made as v0.9.0.vcluster.0"),
    ],
)
def test_release_tags_are_signed_by_a_signer(
    history: History, run: Command, keys: Keys, kind: str, why: str | None
) -> None:
    fork(history, keys.signers, "require-signed-tags")
    history.commit("feat(fork): ours", {"a": "1"}, on=LINE)
    tag(history, keys, kind)

    result = run(history, "check-tag", "v1.0.0.vcluster.0", "--output", "json")

    assert result.rules == ([("tag-unsigned", None)] if why else [])
    assert not why or why in result.json["findings"][0]["message"]


def test_a_tag_that_is_not_there_yet_is_not_asked_for_a_signature(
    history: History, run: Command, keys: Keys
) -> None:
    fork(history, keys.signers, "require-signed-tags")
    history.commit("feat(fork): ours", {"a": "1"}, on=LINE)
    assert run(history, "check-tag", "v1.0.0.vcluster.0", "-o", "json").rules == []


# ---- sign-offs


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        ("fix(fork): x\n\nSigned-off-by: A U Thor <author@example.com>\n", True),
        ("fix(fork): x\n\nWhy.\n\nRefs: #1\nsigned-off-by: Somebody <AUTHOR@example.com>\n", True),
        ("fix(fork): x\n\nSigned-off-by: Another <another@example.com>\n", False),
        ("fix(fork): x\n\nSigned-off-by: author@example.com\n", False),
        ("fix(fork): x\n\nSigned-off-by: A U Thor <author@example.com>\n\nAnd more text.\n", False),
        ("fix(fork): x\n", False),
    ],
)
def test_an_author_signs_off(history: History, run: Command, message: str, passes: bool) -> None:
    fork(history, "", "require-sign-off")
    history.commit(message, {"a": "1"}, on="work")

    result = check(history, run)

    assert result.rules == ([] if passes else [("sign-off-missing", None)])
    assert passes or "A U Thor <author@example.com>" in result.json["findings"][0]["message"]


def test_a_bot_signs_off_with_its_maker_s_address(history: History, run: Command) -> None:
    fork(history, "", "require-sign-off")
    bot = "dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>"
    signed = "ci(fork): bump x\n\nSigned-off-by: dependabot[bot] <support@github.com>\n"
    history.commit(signed, {".github/a": "1"}, on="work", author=bot)
    assert check(history, run).rules == []


def test_nothing_is_asked_for_where_the_settings_do_not(history: History, run: Command) -> None:
    fork(history, "")
    history.commit("fix(fork): x", {"a": "1"}, on="work")
    assert check(history, run).rules == []
