"""Property test: random paths, written to and read from a real repository."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from forktools.commits import changed_paths, read_range
from forktools.git_repository import open_repository
from forktools.policy import allowed_on_trunk
from forktools.sanitize import encode
from tests.forktools.git_history import History

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(b"/\0") & set(name) and name.lower() not in (b".", b"..", b".git")
)


@given(st.sets(names, min_size=1, max_size=30))
@settings(max_examples=15, deadline=None)
def test_paths_come_back_byte_for_byte(paths: set[bytes]) -> None:
    with TemporaryDirectory() as scratch:
        history = History.start(Path(scratch) / "work")
        sha = history.commit("ci(fork): x", dict.fromkeys(paths, "1"))
        repo = open_repository(history.path)

        changes = changed_paths(repo, read_range(repo, [sha], []))

        assert {encode(change.path) for change in changes[sha]} == paths


@given(
    st.lists(
        st.sampled_from([".github", "docs", "updatecli", "kine", "README.md", "x"]), min_size=1, max_size=4
    )
)
def test_allowlist_is_a_matter_of_the_first_directory(parts: list[str]) -> None:
    path = "/".join(parts)

    inside = len(parts) > 1 and parts[0] in (".github", "docs", "updatecli")
    assert allowed_on_trunk(path) == (inside or path == "README.md")
