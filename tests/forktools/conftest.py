"""Fixtures: each test has a git isolated from the user's configuration, identity and environment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from forktools.cli import main
from tests.forktools.git_history import History

IDENTITY = {
    f"GIT_{role}_{name}": value
    for role in ("AUTHOR", "COMMITTER")
    for name, value in (("NAME", "T E Ster"), ("EMAIL", "tester@example.com"))
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("GIT_", "GITHUB_", "RUNNER_", "XDG_")) or name in (
            "CI",
            "NO_COLOR",
            "FORCE_COLOR",
        ):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
    }
    for name, value in (settings | IDENTITY).items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Result:
    """The output and exit status of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rules(self) -> list[tuple[str, str | None]]:
        """(rule, path) of each finding in a JSON result."""
        return [(finding["rule"], finding["path"]) for finding in self.json["findings"]]


Command = Callable[..., Result]

SCHEMA = json.loads(resources.files("forktools").joinpath("schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A repository whose main has one commit."""
    history = History.start(tmp_path / "work")
    history.commit("initial", {"README.md": "kine\n", "kine/server.py": "one\ntwo\nthree\n"})
    return history


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs forktools, on a repository unless `history` is None; validates every JSON result by the schema."""

    def run(history: History | None, *arguments: str) -> Result:
        capsys.readouterr()
        where = ["--repository", str(history.path)] if history else []
        status = main([*arguments, *where])
        said = capsys.readouterr()
        result = Result(status, said.out, said.err)
        if "--output=json" in arguments or ("--output", "json") in pairwise(arguments):
            assert status == 2 or not list(VALIDATOR.iter_errors(result.json)), result.out
        return result

    return run


@pytest.fixture
def check(run: Command) -> Callable[..., Result]:
    """Runs check-pr on base..head with JSON output."""

    def check(history: History, base: str = "main", head: str = "work", **more: str) -> Result:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
        return run(history, "check-pr", "--base-ref", base, "--head-sha", head, "--output", "json", *options)

    return check


@pytest.fixture
def verify(run: Command) -> Command:
    """Runs `replay verify` on the line of v1.1.0."""

    def verify(history: History, *more: str) -> Result:
        return run(history, "replay", "verify", "--to", "v1.1.0", "--output", "json", *more)

    return verify
