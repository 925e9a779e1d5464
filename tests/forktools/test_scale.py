"""Scalability: thousands of commits take as many git processes as a few; chains of merges are all judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forktools.conftest import Command
from tests.forktools.git_history import History

COMMITS = 2000
PROCESSES = 60  # of git, for any number of commits: starting one for each would take most of the time


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The number of git processes started, from git's own trace."""
    trace = tmp_path / "trace"
    trace.mkdir()
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(trace))

    def count() -> int:
        events = [json.loads(line) for file in trace.iterdir() for line in file.read_text().splitlines()]
        return sum(event["event"] == "start" for event in events)

    return count


def bulk(
    history: History, branch: str, parent: str, count: int, *, merge_every: int = 0, evil_at: int = -1
) -> None:
    """`count` commits in one fast-import stream; every `merge_every`th merges the commit two before it."""
    stream = bytearray(f"reset refs/heads/{branch}\nfrom {history.sha(parent)}\n".encode())
    for n in range(count):
        merge = bool(merge_every) and n > 2 and n % merge_every == 0
        subject = f"Merge {n}" if merge else f"fix(fork): change {n}"
        stream += (
            f"commit refs/heads/{branch}\nmark :{n + 1}\ncommitter C <c@example.com> {n} +0000\n".encode()
        )
        stream += f"data {len(subject)}\n{subject}\n".encode()
        stream += f"merge :{n - 1}\n".encode() if merge else b""
        path, text = (f"evil{n}", "x") if n == evil_at else (f"dir{n % 50}/file{n % 400}", f"{n}\n")
        stream += (
            f"M 100644 inline {path}\ndata {len(text)}\n{text}\n".encode()
            if not merge or n == evil_at
            else b""
        )
    history.git("fast-import", "--quiet", stdin=bytes(stream))


def test_check_pr_of_2000_commits_with_merges(
    history: History, run: Command, processes: Callable[[], int]
) -> None:
    history.branch("release/vcluster/v0.16.3", "main")
    bulk(history, "work", "main", COMMITS, merge_every=5, evil_at=1500)

    before = processes()
    result = run(
        history, "check-pr", "--base", "release/vcluster/v0.16.3", "--head", "work", "--output", "json"
    )

    assert result.json["commits"] == COMMITS
    assert result.rules == [("merge-not-fork", "evil1500")]
    assert 0 < processes() - before < PROCESSES


def test_status_of_2000_commits(history: History, run: Command, processes: Callable[[], int]) -> None:
    history.tag("v0.16.3", "main")
    history.commit("feat: upstream", {"up": "1"})
    history.tag("v0.17.0", "main")
    bulk(history, "release/vcluster/v0.16.3", "v0.16.3", COMMITS)
    bulk(history, "release/vcluster/v0.17.0", "v0.17.0", COMMITS)

    before = processes()
    result = run(history, "replay", "verify", "--to", "v0.17.0", "--output", "json")

    assert result.status == 0
    assert {commit["state"] for commit in result.json["commits"]} == {"replayed"}
    assert 0 < processes() - before < PROCESSES
