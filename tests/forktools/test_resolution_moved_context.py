"""Reuse of a conflict resolution when a neighbouring line has moved since.

This is the case of the real fork's release.yml, whose pinned action stands under the condition that the fork
changes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from forktools.hunk_resolution import Hunk, Lines, Settled, carried, joined
from tests.forktools.conftest import Command
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import OLD

PATH = ".github/workflows/release.yml"
REF = "refs/forktools/resolutions"
OWNED = "github.repository_owner != 'k3s-io'"
NEWEST = "release/vcluster/v1.2.0"


def release(pin: str, login: str = OWNED, tags: str = "  docker.io/kine\n  ghcr.io/kine\n") -> str:
    """The workflow with a version of the login action, its condition and the pushed image names."""
    steps = "".join(f"- name: step {n}\n  run: make step-{n}\n\n" for n in range(6))
    return (
        f"{steps}- name: Login to DockerHub\n  if: {login}\n  uses: docker/login-action@{pin}\n  with:\n"
        f"    username: me\n\n{steps}- name: Push\n  tags: |\n{tags}"
    )


FORK_S = f"{OWNED} && env.DOCKER_TOKEN != ''"


@pytest.fixture
def fork(history: History, run: Command, tmp_path: Path) -> History:
    """Upstream moves the pin in every release; a person has resolved the conflict of the first cut."""
    for minor, pin in enumerate(("4907a6dd", "650006c6", "dbcb8138")):
        history.commit("ci: pin", {PATH: release(pin)})
        history.tag(f"v1.{minor}.0", "main")
    history.branch(OLD, "v1.0.0")
    history.commit("ci(fork): DockerHub is optional", {PATH: release("4907a6dd", FORK_S)}, on=OLD)
    assert run(history, "replay", "apply", "--to=v1.1.0").status == 1
    return history


def settle(history: History, run: Command, text: str) -> None:
    worktree = history.path.with_name("work.v1.1.0")
    (worktree / PATH).write_text(text)
    subprocess.run(["git", "add", PATH], cwd=worktree, check=True)
    assert run(history, "replay", "apply", "--continue", "--accept=as it must be").status == 0


@pytest.mark.parametrize("old", ["v1.0.0", "v1.1.0"])
@pytest.mark.parametrize("recorded", [True, False])
def test_the_third_cut_does_not_stop(fork: History, run: Command, old: str, recorded: bool) -> None:
    """From either line; without the shared record, the resolution is read from the line before."""
    settle(fork, run, release("650006c6", FORK_S))
    if not recorded:
        fork.git("update-ref", "-d", REF)

    planned = run(fork, "replay", "plan", f"--from={old}", "--to=v1.2.0", "--output=json")
    result = run(fork, "replay", "apply", f"--from={old}", "--to=v1.2.0", "--output=json")

    if old == "v1.0.0" and not recorded:  # there is no line before it to read the resolution from
        assert (planned.json["steps"][0]["stops"], result.status) == (True, 1)
        return
    assert (planned.json["steps"][0]["stops"], planned.json["steps"][0]["remark"]) == (
        False,
        "settled as before",
    )
    assert (result.status, result.json["phase"]) == (0, "done")
    assert [(one["paths"], one["moved"]) for one in result.json["reused"]] == [([PATH], [PATH])]
    assert fork.show(NEWEST, PATH) == release("dbcb8138", FORK_S).rstrip("\n")
    assert run(fork, "replay", "verify", "--to=v1.2.0").status == 0


def test_it_is_shown_with_what_moved(fork: History, run: Command) -> None:
    settle(fork, run, release("650006c6", FORK_S))

    said = run(fork, "replay", "apply", "--from=v1.1.0", "--to=v1.2.0").out

    assert "lines beside it have moved since" in said
    assert "settled as before" in said
    assert "-   uses: docker/login-action@650006c6" in said


def test_what_a_person_changed_besides_comes_along_with_that_commit_only(fork: History, run: Command) -> None:
    """As in the real cut, which dropped two more names; from the older line they would be left in."""
    settle(fork, run, release("650006c6", FORK_S, tags="  ghcr.io/kine\n"))

    older = run(fork, "replay", "apply", "--from=v1.0.0", "--to=v1.2.0", "--output=json")
    assert (older.status, older.json["conflicts"]) == (1, [PATH])
    run(fork, "replay", "apply", "--abort")

    assert run(fork, "replay", "apply", "--from=v1.1.0", "--to=v1.2.0").status == 0
    assert fork.show(NEWEST, PATH) == release("dbcb8138", FORK_S, "  ghcr.io/kine\n").rstrip("\n")


@pytest.mark.parametrize("login", ["github.event_name == 'push'", FORK_S + " && true"])
def test_a_line_that_both_changed_waits_for_a_person(fork: History, run: Command, login: str) -> None:
    settle(fork, run, release("650006c6", FORK_S))
    fork.commit("ci: another condition", {PATH: release("dbcb8138", login)})
    fork.tag("v1.3.0", "main")

    result = run(fork, "replay", "apply", "--from=v1.1.0", "--to=v1.3.0", "--output=json")

    assert (result.status, result.json["conflicts"], result.json["reused"]) == (1, [PATH], [])


def test_what_was_left_out_is_not_left_out_unseen(fork: History, run: Command) -> None:
    """The line's side was right then, but it has changed since and must be looked at again."""
    worktree = fork.path.with_name("work.v1.1.0")
    (worktree / PATH).write_text(release("650006c6", tags="  ghcr.io/kine\n"))
    subprocess.run(["git", "add", PATH], cwd=worktree, check=True)
    assert run(fork, "replay", "apply", "--continue", "--accept=not needed").status == 0

    result = run(fork, "replay", "apply", "--from=v1.0.0", "--to=v1.2.0", "--output=json")

    assert (result.status, result.json["conflicts"]) == (1, [PATH])


def lines(text: str) -> Lines:
    return tuple(f"{word}\n".encode() for word in text.split())


@pytest.mark.parametrize(
    ("base", "one", "other", "wanted"),
    [
        ("if pin", "IF pin", "if PIN", "IF PIN"),
        ("pin", "aws pin", "PIN", "aws PIN"),
        ("a pin", "a aws pin", "a PIN", "a aws PIN"),
        ("a", "b", "b", "b"),
        ("a", "b", "c", None),
        ("a b", "a x b", "a y b", None),
        ("a b", "a x b", "b", None),
        ("a b c", "a x b c", "d", None),
        ("a a", "a x a", "a a a", None),  # the place of the third a is ambiguous
        ("a", "", "a b", None),
    ],
)
def test_changes_of_neighbours_are_joined(base: str, one: str, other: str, wanted: str | None) -> None:
    expected = None if wanted is None else lines(wanted)

    assert joined(lines(base), lines(one), lines(other)) == expected
    assert joined(lines(base), lines(other), lines(one)) == expected


@pytest.mark.parametrize(
    ("hunk", "known", "wanted"),
    [
        # base, ours, theirs; the known hunk with its resolution
        (("if P1", "if P3", "IF P1"), ("if P1", "if P2", "IF P1", "IF P2"), "IF P3"),
        (("if P2", "if P3", "IF P2"), ("if P1", "if P2", "IF P1", "IF P2"), "IF P3"),
        # words of the person's own, next to which a line has moved
        (("if P1", "if P3", "IF P1"), ("if P1", "if P2", "IF P1", "both P2"), "both P3"),
        # the incoming change is another one
        (("if P1", "if P3", "so P1"), ("if P1", "if P2", "IF P1", "IF P2"), None),
        # the line's side now has another condition
        (("if P1", "when P3", "IF P1"), ("if P1", "if P2", "IF P1", "IF P2"), None),
        # the change was left out
        (("if P1", "if P3", "IF P1"), ("if P1", "if P2", "IF P1", "if P2"), None),
        (("if P1", "if P2", "IF P1"), ("if P1", "if P2", "IF P1", "if P2"), "if P2"),
    ],
)
def test_a_hunk_is_settled_as_one_like_it(
    hunk: tuple[str, str, str], known: tuple[str, str, str, str], wanted: str | None
) -> None:
    base, ours, theirs, made = map(lines, known)
    told = Settled(Hunk(base, ours, theirs), made)

    assert carried(Hunk(*map(lines, hunk)), told) == (None if wanted is None else lines(wanted))
