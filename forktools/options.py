"""Options and arguments that several commands share, and how a command opens its repository and answers."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forktools.policy import line_branch
from forktools.report import Output, Report, show
from forktools.repository import RepositoryError, open_repository
from forktools.text import visible

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

# What a hook's environment holds would send git to another repository than the one asked about.
_HOOK_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)


def opened(path: Path) -> git.Repo:
    """The repository at `path`. Raises RepositoryError when there is none."""
    for name in _HOOK_VARIABLES:
        os.environ.pop(name, None)
    return open_repository(path)


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
