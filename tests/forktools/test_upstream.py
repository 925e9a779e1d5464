"""`upstream fetch`: upstream's tags in a separate namespace, independent of the fork's tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.forktools.git_history import History

if TYPE_CHECKING:
    from pathlib import Path

    from tests.forktools.conftest import Command, Result


@pytest.fixture
def upstream(tmp_path: Path) -> History:
    upstream = History.start(tmp_path / "upstream")
    upstream.commit("feat: one", {"a": "1"})
    upstream.tag("v1.0.0", "main", "annotated")
    upstream.commit("feat: two", {"a": "2"})
    upstream.tag("v1.1.0", "main")
    upstream.tag("v1.1.1-rc1", "main")
    return upstream


def fetch(run: Command, history: History, upstream: History) -> Result:
    return run(history, "upstream", "fetch", "--url", str(upstream.path), "--output", "json")


def test_tags_come_with_their_commits(history: History, upstream: History, run: Command) -> None:
    result = fetch(run, history, upstream)

    assert (result.status, result.json["releases"]) == (0, 2)
    assert result.json["new"] == ["v1.0.0", "v1.1.0", "v1.1.1-rc1"]
    assert history.sha("refs/upstream/tags/v1.0.0") == upstream.sha("v1.0.0")
    assert history.git("tag") == ""


def test_the_fork_s_tags_stay_and_are_told_apart(history: History, upstream: History, run: Command) -> None:
    history.tag("v1.0.0", "main")

    result = fetch(run, history, upstream)

    assert result.json["differing"] == ["v1.0.0"]
    assert history.sha("v1.0.0") == history.sha("main")


def test_a_tag_that_upstream_moved_is_followed_and_reported(
    history: History, upstream: History, run: Command
) -> None:
    fetch(run, history, upstream)
    upstream.git("tag", "--force", "v1.1.0", "main~1")

    result = fetch(run, history, upstream)

    assert (result.json["new"], result.json["moved"]) == ([], ["v1.1.0"])
    assert history.sha("refs/upstream/tags/v1.1.0") == upstream.sha("main~1")


def test_an_upstream_that_cannot_be_reached(history: History, run: Command, tmp_path: Path) -> None:
    result = run(history, "upstream", "fetch", "--url", str(tmp_path / "nowhere"))

    assert (result.status, result.out) == (2, "")
    assert "--url" in result.err
