"""Options and arguments that several commands share, and how a command opens its repository and answers."""

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
    """The output formats every command has."""

    AUTO = "auto"
    TABLE = "table"
    GITHUB = "github"
    JSON = "json"


class Plain(enum.StrEnum):
    """The output formats of a command that answers in one word."""

    TEXT = "text"
    JSON = "json"


_FORMATS = "`auto` is `github` (annotations and a job summary) in a workflow and `table` elsewhere."
As = Annotated[Answer, typer.Option("--output", "-o", help=_FORMATS)]
AsFindings = Annotated[Output, typer.Option("--output", "-o", help=_FORMATS)]

# Of git's variables these stay: who commits, how a remote is reached, where git and its settings are. The
# rest would send it to another repository (a hook's), or change what it prints.
_KEPT_VARIABLES = re.compile(
    r"GIT_(AUTHOR_|COMMITTER_|CONFIG|ASKPASS|SSH|PROXY|HTTP|SSL|CURL|TRACE|EXEC_PATH|CEILING|PYTHON_|TEST_)"
)


def opened(path: Path, remote: str = "origin", base_ref: str = "") -> git.Repo:
    """The repository at `path`, with its policy in force. Raises RepositoryError when there is none.

    `base_ref` is the branch that a pull request goes into.
    """
    for name in [*os.environ]:
        if name.startswith("GIT_") and not _KEPT_VARIABLES.match(name):
            del os.environ[name]
    repo = open_repository(path)
    use(settings_of(repo, remote, base_ref))
    return repo


def branch_of_line(name: str) -> str:
    """The branch of a line given in short or in full. Raises RepositoryError when `name` is no line."""
    branch = line_branch(name)
    if branch is None:
        raise RepositoryError(f"{visible(name)} is not a release line", "Give one as vX.Y.Z.")
    return branch


def answer(report: Report, output: Output | Answer, *, strict: bool = False) -> None:
    """Shows the report; exit status 1 when a rule is broken (`strict`: or deserves a look)."""
    show(report, Output(output))
    if report.errors or (strict and report.findings) or not report.document["ok"]:
        raise typer.Exit(1)
