"""The `forktools` command. Exit status: 0 all is well, 1 a rule is broken, 2 wrong usage or repository."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import git
import typer

from forktools import documents, pull_request, tags, views
from forktools.options import Answer, As, AsFindings, Plain, Remote, Where, answer, branch_of_line, opened
from forktools.replay_cli import replay_app
from forktools.report import Output
from forktools.repository import NotARepositoryError, RepositoryError
from forktools.text import json_text, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="forktools",
    help="Enforce the fork's rules on commits, tags and release lines.\n\n"
    "Exit status: 0 all is well, 1 a rule is broken, 2 wrong usage or a repository that cannot answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
policy_app = typer.Typer(help="The policy itself.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(replay_app, name="replay")


@app.command("check-pr")
def check_pr(
    base_ref: Annotated[
        str,
        typer.Option(
            "--base-ref",
            "--base",
            help="The branch the pull request goes into; its rules apply.",
            show_default="the event's, in GitHub Actions",
        ),
    ] = "",
    base_sha: Annotated[
        str, typer.Option(help="The commit to start after.", show_default="the event's, or the base branch")
    ] = "",
    head_sha: Annotated[
        str,
        typer.Option("--head-sha", "--head", help="The last commit.", show_default="the event's, or HEAD"),
    ] = "",
    repository: Where = Path(),
    remote: Remote = "origin",
    output: AsFindings = Output.AUTO,
) -> None:
    """Judge every commit a pull request adds by the rules of the branch it goes into.

    On a laptop: forktools check-pr --base main
    """
    event = pull_request.from_environment()
    if event is None and not base_ref:
        raise RepositoryError("the base branch is not known", "Name it: forktools check-pr --base main")
    known = event or pull_request.PullRequest(base_ref)
    asked = pull_request.PullRequest(
        base_ref or known.base_ref, base_sha or known.base, head_sha or known.head
    )
    answer(views.pull_request(pull_request.check(opened(repository), asked, remote)), output)


@app.command("check-tag")
def check_tag(
    tag: Annotated[str, typer.Argument(help="The tag, vX.Y.Z.vcluster.N; it need not exist yet.")],
    name_only: Annotated[
        bool, typer.Option("--name-only", help="Check the scheme and leave the repository alone.")
    ] = False,
    repository: Where = Path(),
    remote: Remote = "origin",
    output: As = Answer.AUTO,
) -> None:
    """Check a release tag: its scheme, its line, where the line was cut, its number, how far it is behind.

    Outside a repository only the scheme is checked.
    """
    try:
        verdict = tags.check_name(tag) if name_only else tags.check_tag(opened(repository), tag, remote)
    except NotARepositoryError:
        if repository != Path():
            raise
        verdict = tags.check_name(tag)
    answer(views.tag(verdict), output)


@app.command("next-tag")
def next_tag(
    line: Annotated[str, typer.Option(help="The line, as vX.Y.Z.")],
    repository: Where = Path(),
    remote: Remote = "origin",
    output: Annotated[
        Plain, typer.Option("--output", "-o", help="`text` is the tag alone, for $(...).")
    ] = Plain.TEXT,
) -> None:
    """Print the tag of a line's next release."""
    tag = tags.next_tag(opened(repository), branch_of_line(line), remote)
    typer.echo(json_text(documents.next_tag(tag)) if output is Plain.JSON else tag)


@policy_app.command("show")
def policy_show(output: As = Answer.AUTO) -> None:
    """Print the types, the scope, the allowlist and the rules."""
    answer(views.policy(), output)


@app.command()
def schema() -> None:
    """Print the JSON Schema of what `--output json` gives."""
    typer.echo(resources.files("forktools").joinpath("schema.json").read_text(encoding="utf-8"), nl=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit status. Nothing but an answer goes to standard output."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="forktools")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except RepositoryError as error:
        return _complain(error.problem, error.fix)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (git.GitError, OSError) as error:
        return _complain(str(error), "")
    except Exception as error:  # status 1 would read as a broken rule
        if "FORKTOOLS_DEBUG" in os.environ:
            traceback.print_exc()
        return _complain(
            f"unexpected {type(error).__name__}: {error}", "Set FORKTOOLS_DEBUG=1 for a traceback."
        )
    return 0


def _complain(problem: str, fix: str) -> int:
    for line in (*problem.splitlines(), *fix.splitlines()):
        print(f"forktools: {visible(line)}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main())
