"""The `forktools hooks` commands: installation, and the entry points that git calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from forktools import hooks, json_output
from forktools.cli_options import Remote, Where, answer, opened
from forktools.git_repository import RepositoryError
from forktools.policy import Finding, Level
from forktools.reporting import Output, Report
from forktools.sanitize import visible

hooks_app = typer.Typer(
    help="Git hooks that judge a commit before it is made and before it is pushed.\n\n"
    "pre-commit (https://pre-commit.com) knows them as forktools-commit-msg and forktools-pre-push.",
    no_args_is_help=True,
)


@hooks_app.command("install")
def install_(
    force: Annotated[bool, typer.Option("--force", help="Keep another's hook as NAME.old.")] = False,
    repository: Where = Path(),
) -> None:
    """Write commit-msg and pre-push into the repository's hooks."""
    for path in hooks.install(opened(repository), force=force):
        typer.echo(f"installed {visible(str(path))}")


@hooks_app.command("uninstall")
def uninstall_(repository: Where = Path()) -> None:
    """Remove what `install` wrote, and put back what it moved aside."""
    removed = hooks.uninstall(opened(repository))
    for path in removed:
        typer.echo(f"removed {visible(str(path))}")
    if not removed:
        typer.echo("there is no hook of forktools here")


@hooks_app.command("commit-msg")
def commit_msg(
    file: Annotated[Path, typer.Argument(help="The file with the message, as git gives it.")],
    repository: Where = Path(),
    remote: Remote = "origin",
) -> None:
    """Judge the commit that is about to be made (git calls this).

    By the branch it is made on if that is a trunk or a line, else by the trunk or line that is nearest; where
    two are equally near, only what both refuse is refused.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise RepositoryError(
            f"the message cannot be read: {error}", "Give the file that git gives."
        ) from error
    index = os.environ.get("GIT_INDEX_FILE", "")
    index = str(Path(index).absolute()) if index else ""
    _answer("commit-msg", hooks.check_message(opened(repository, remote), text, remote, index))


@hooks_app.command("pre-push")
def pre_push(
    remote: Annotated[str, typer.Argument(help="The remote's name.")] = "origin",
    url: Annotated[str, typer.Argument(help="Its address.")] = "",
    repository: Where = Path(),
) -> None:
    """Judge the commits and release tags that are about to be pushed (git calls this).

    git gives what is pushed on standard input, pre-commit in variables.
    """
    _ = url
    pushes = _of_pre_commit() or [_parsed(line) for line in sys.stdin.read().splitlines() if line.strip()]
    name = os.environ.get("PRE_COMMIT_REMOTE_NAME") or remote
    _answer("pre-push", hooks.check_push(opened(repository, name), pushes, name))


def _of_pre_commit() -> list[hooks.Push]:
    to, branch = os.environ.get("PRE_COMMIT_TO_REF"), os.environ.get("PRE_COMMIT_REMOTE_BRANCH")
    if not to or not branch:
        return []
    ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
    return [hooks.Push(to, ref, os.environ.get("PRE_COMMIT_FROM_REF") or "0")]


def _parsed(line: str) -> hooks.Push:
    words = line.split(" ")
    if len(words) != 4:
        raise RepositoryError(
            f"pre-push does not understand {visible(line)}",
            "Give `LOCAL_REF LOCAL_SHA REMOTE_REF REMOTE_SHA`.",
        )
    return hooks.Push(words[1], words[2], words[3])


def _answer(name: str, findings: list[Finding]) -> None:
    """Prints the findings, and nothing if there are none."""
    if not findings:
        return
    errors = sum(finding.rule.level is Level.ERROR for finding in findings)
    summary = (
        f"{name}: {errors} violations, {len(findings) - errors} warnings (`--no-verify` passes the hook)."
    )
    document = json_output.document(f"hooks {name}", not errors, findings)
    answer(Report(f"hooks {name}", summary, document, findings), Output.TABLE)
