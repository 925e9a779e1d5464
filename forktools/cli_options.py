"""Options and arguments shared by the commands; opening the repository and showing the result."""

from __future__ import annotations

import enum
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forktools.git_repository import RepositoryError, open_repository
from forktools.policy import line_branch
from forktools.reporting import Output, Report, show
from forktools.sanitize import visible
from forktools.settings import settings_of, use

if TYPE_CHECKING:
    import git

Where = Annotated[
    Path, typer.Option("--repository", "-C", help="The git repository.", show_default="the current directory")
]
Remote = Annotated[
    str, typer.Option(help="The remote whose branches count when there is no newer local one.")
]


class Answer(enum.StrEnum):
    """The output formats of every command."""

    AUTO = "auto"
    TABLE = "table"
    GITHUB = "github"
    JSON = "json"


class Plain(enum.StrEnum):
    """The output formats of a command that prints one word."""

    TEXT = "text"
    JSON = "json"


_FORMATS = "`auto` is `github` (annotations and a job summary) in a workflow and `table` elsewhere."
As = Annotated[Answer, typer.Option("--output", "-o", help=_FORMATS)]
AsFindings = Annotated[Output, typer.Option("--output", "-o", help=_FORMATS)]

# The git variables that stay: the committer, access to remotes, the places of git and its settings. The
# others would make git use another repository (a hook sets them) or change its output.
_KEPT_VARIABLES = re.compile(
    r"GIT_(AUTHOR_|COMMITTER_|CONFIG|ASKPASS|SSH|PROXY|HTTP|SSL|CURL|TRACE|EXEC_PATH|CEILING|PYTHON_|TEST_)"
)


def opened(path: Path, remote: str = "origin", base_ref: str = "") -> git.Repo:
    """Opens the repository at `path` and applies its policy. Raises RepositoryError when there is none.

    `base_ref` is the branch that a pull request goes into.
    """
    for name in [*os.environ]:
        if name.startswith("GIT_") and not _KEPT_VARIABLES.match(name):
            del os.environ[name]
    repo = open_repository(path)
    use(settings_of(repo, remote, base_ref))
    return repo


def branch_of_line(name: str) -> str:
    """The branch of a line named in short or in full. Raises RepositoryError when `name` names no line."""
    branch = line_branch(name)
    if branch is None:
        raise RepositoryError(f"{visible(name)} is not a release line", "Give one as vX.Y.Z.")
    return branch


def answer(report: Report, output: Output | Answer, *, strict: bool = False) -> None:
    """Shows the report; exits with status 1 when a rule is broken (`strict`: also on a warning)."""
    show(report, Output(output))
    if report.errors or (strict and report.findings) or not report.document["ok"]:
        raise typer.Exit(1)
