"""`changelog`: release notes from the commits of a line."""

from __future__ import annotations

import pytest

from tests.forktools.conftest import Command
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import NEW, OLD, edited, picked, upstream


@pytest.fixture
def fork(history: History, run: Command) -> History:
    """Two releases of the old line, one of the new; the new line left one commit out and changed one."""
    upstream(history)
    history.commit("feat(fork): log in with *IAM*", {"iam.py": "1\n"}, on=OLD)
    old = history.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
    history.tag("v1.0.0.vcluster.0", OLD)
    dropped = history.commit("ci(fork)!: build @everyone, closes #1", {"ci": "1\n"}, on=OLD)
    history.tag("v1.0.0.vcluster.1", "main")  # by mistake
    history.tag("v1.0.0.vcluster.2", OLD)
    history.branch(NEW, "v1.1.0")
    history.commit("feat(fork): log in with *IAM*", {"iam.py": "1\n"}, on=NEW)
    now = history.show(NEW, "app.py") + "\n"
    history.commit(picked("fix(fork): thirty", old), {"app.py": edited(30, "both", now)}, on=NEW)
    record = run(history, "replay", "accept", old, "--to=v1.1.0", "--reason=both are wanted").out
    history.commit(record, {}, on=NEW)
    history.commit(run(history, "replay", "drop", dropped, "--reason=built elsewhere").out, {}, on=NEW)
    history.commit("perf(fork): faster", {"fast": "1\n"}, on=NEW)
    history.tag("v1.1.0.vcluster.0", NEW)
    return history


def test_of_a_tag(fork: History, run: Command) -> None:
    said = run(fork, "changelog", "v1.0.0.vcluster.2")

    assert said.status == 0
    assert said.out.splitlines() == [
        "Since v1.0.0.vcluster.0:",
        "",
        "### Other changes",
        "",
        f"- **Breaking:** build &#64;everyone, closes &#35;1 ({fork.sha(OLD)[:12]})",
    ]


def test_of_a_new_line_s_first_release(fork: History, run: Command) -> None:
    said = run(fork, "changelog", "v1.1.0.vcluster.0").out.splitlines()

    assert said == [
        "Upstream's v1.1.0 and 2 commits of v1.0.0:",
        "",
        "### Performance",
        "",
        f"- faster ({fork.sha(NEW)[:12]})",
        "",
        "### Left out",
        "",
        f"- {fork.sha(OLD)[:12]}: built elsewhere",
        "",
        "### Changed on the way",
        "",
        f"- {fork.sha(f'{OLD}~1')[:12]}: both are wanted",
    ]


def test_of_everything(fork: History, run: Command) -> None:
    fork.commit("docs(fork): more", {"docs/a": "1"}, on=NEW)

    said = run(fork, "changelog").out

    assert [line for line in said.splitlines() if line.startswith("#") and not line.startswith("###")] == [
        "# Changelog",
        "## v1.1.0, not released yet (2023-11-14)",
        "## v1.1.0.vcluster.0 (2023-11-14)",
        "## v1.0.0.vcluster.2 (2023-11-14)",
        "## v1.0.0.vcluster.0 (2023-11-14)",
    ]
    assert "log in with \\*IAM\\*" in said


def test_of_a_line_as_data(fork: History, run: Command) -> None:
    answer = run(fork, "changelog", "--line=v1.0.0", "--output=json").json

    assert [(one["tag"], one["since"]) for one in answer["releases"]] == [
        ("v1.0.0.vcluster.2", "v1.0.0.vcluster.0"),
        ("v1.0.0.vcluster.0", None),
    ]


@pytest.mark.parametrize("tag", ["v1.0.0", "v1.0.0.vcluster.1", "v1.0.0.vcluster.7", "nonsense"])
def test_what_is_no_release_is_an_error(fork: History, run: Command, tag: str) -> None:
    assert run(fork, "changelog", tag).status == 2
