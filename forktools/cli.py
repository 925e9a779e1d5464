"""The `forktools` command. Exit status: 0 success, 1 a rule is broken, 2 wrong usage or repository."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import git
import typer

from forktools import changelog, json_output, pull_request, replay_gate, tags, text_output, upstream_tags
from forktools.audit_cli import audit_, backports_
from forktools.cli_options import Answer, As, AsFindings, Plain, Remote, Where, answer, branch_of_line, opened
from forktools.git_repository import NotARepositoryError, RepositoryError
from forktools.hooks_cli import hooks_app
from forktools.package_version import version
from forktools.replay_cli import replay_app
from forktools.reporting import Output
from forktools.sanitize import annotation_data, json_text, visible
from forktools.settings import read_from

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
upstream_app = typer.Typer(help="What the fork is cut from.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(upstream_app, name="upstream")
app.add_typer(replay_app, name="replay")
app.add_typer(hooks_app, name="hooks")
app.command("audit")(audit_)
app.command("backports")(backports_)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"forktools {version() or 'of a checkout'}")
        raise typer.Exit


@app.callback()
def _common(
    version_: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    settings_from: Annotated[
        str,
        typer.Option(
            envvar="FORKTOOLS_SETTINGS_FROM",
            metavar="COMMIT",
            help="Where the repository's settings are read.",
            show_default="the remote's default branch, master or main",
        ),
    ] = "",
) -> None:
    read_from(settings_from)


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
    title: Annotated[
        str,
        typer.Option(
            help="The pull request's title; a squash merge makes it the subject of all its paths.",
            show_default="the event's, or not judged",
        ),
    ] = "",
    repository: Where = Path(),
    remote: Remote = "origin",
    output: AsFindings = Output.AUTO,
) -> None:
    """Judge every commit a pull request adds, and its title, by the rules of the branch it goes into.

    On a laptop: forktools check-pr --base main
    """
    event = None if base_ref and base_sha and head_sha else pull_request.from_environment()
    if event is None and not base_ref:
        raise RepositoryError("the base branch is not known", "Name it: forktools check-pr --base main")
    known = event or pull_request.PullRequest(base_ref)
    asked = pull_request.PullRequest(
        base_ref or known.base_ref, base_sha or known.base, head_sha or known.head, title or known.title
    )
    branch = asked.base_ref.removeprefix("refs/heads/").removeprefix(f"{remote}/")
    answer(
        text_output.pull_request(pull_request.check(opened(repository, remote, branch), asked, remote)),
        output,
    )


@app.command("check-tag")
def check_tag(
    tag: Annotated[str, typer.Argument(help="The tag, as vX.Y.Z.vcluster.N; it need not exist yet.")],
    name_only: Annotated[
        bool, typer.Option("--name-only", help="Check the scheme and leave the repository alone.")
    ] = False,
    repository: Where = Path(),
    remote: Remote = "origin",
    output: As = Answer.AUTO,
) -> None:
    """Check a release tag: its scheme, its line, where the line was cut, its number, the replay rule.

    Outside a repository only the scheme is checked.
    """
    try:
        repo = opened(repository, remote)
        verdict = tags.check_name(tag) if name_only else replay_gate.check_tag(repo, tag, remote)
    except NotARepositoryError:
        if repository != Path():
            raise
        verdict = tags.check_name(tag)
    answer(text_output.tag(verdict), output)


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
    repo = opened(repository, remote)
    tag = tags.next_tag(repo, branch_of_line(line), remote)
    typer.echo(json_text(json_output.next_tag(tag)) if output is Plain.JSON else tag)


@app.command("changelog")
def changelog_(
    tag: Annotated[str, typer.Argument(help="A release tag.", show_default="every release")] = "",
    line: Annotated[str, typer.Option(help="The releases of one line, as vX.Y.Z.")] = "",
    repository: Where = Path(),
    remote: Remote = "origin",
    output: Annotated[
        Plain, typer.Option("--output", "-o", help="`text` is Markdown: of one tag, a release's notes.")
    ] = Plain.TEXT,
) -> None:
    """Write what each release brought, from the commits of its line and their trailers.

    forktools changelog > CHANGELOG.md
    """
    repo = opened(repository, remote)
    if tag:
        found = [changelog.of_tag(repo, tag, remote)]
    elif line:
        found = changelog.of_line(repo, branch_of_line(line), remote)
    else:
        found = changelog.of_all(repo, remote)
    if output is Plain.JSON:
        typer.echo(json_text(json_output.changelog(found)))
    else:
        typer.echo(changelog.text(found, whole=not tag), nl=False)


@upstream_app.command("fetch")
def upstream_fetch(
    url: Annotated[str, typer.Option(help="Upstream's repository.", show_default="the setting")] = "",
    repository: Where = Path(),
    output: As = Answer.AUTO,
) -> None:
    """Fetch upstream's release tags into refs/upstream/tags/, apart from the fork's own.

    check-tag, next-tag and replay need them; a checkout of the fork has none.
    """
    answer(text_output.upstream_fetch(upstream_tags.fetch(opened(repository), url)), output)


@policy_app.command("show")
def policy_show(repository: Where = Path(), remote: Remote = "origin", output: As = Answer.AUTO) -> None:
    """Print the settings that hold for a repository, where they were read, and the rules.

    A repository sets them as [tool.forktools] in pyproject.toml, or in .forktools.toml or
    .github/forktools.toml, on its default branch. To see those of a commit: --settings-from COMMIT.
    """
    with contextlib.suppress(NotARepositoryError):
        opened(repository, remote)
    answer(text_output.policy(), output)


@app.command()
def schema() -> None:
    """Print the JSON Schema of what `--output json` gives."""
    typer.echo(resources.files("forktools").joinpath("schema.json").read_text(encoding="utf-8"), nl=False)


@cache
def _command() -> Any:
    """The click command that `app()` would build on each call."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status. Only an answer is written to standard output."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        _command()(args=list(arguments) if arguments is not None else None, prog_name="forktools")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 2
        if status == 2 and os.environ.get("GITHUB_ACTIONS") == "true":
            print("::error title=forktools::wrong usage: see the log of this step", file=sys.stderr)  # noqa: T201
        return status
    except RepositoryError as error:
        return _complain(error.problem, error.fix)
    except BrokenPipeError:  # the reader closed the pipe, for example `| head`
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
    if os.environ.get("GITHUB_ACTIONS") == "true":  # the runner reads commands from either stream
        print(f"::error title=forktools::{annotation_data(f'{problem}. {fix}')}", file=sys.stderr)  # noqa: T201
    for line in (*problem.splitlines(), *fix.splitlines()):
        print(f"forktools: {visible(line)}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main())
