"""The `audit` and `backports` commands: reports on the whole repository, for a scheduled job."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forktools import json_output
from forktools.audit import Audit, audit
from forktools.backports import Backports, Missing, Urgency, find, newest_line
from forktools.cli_options import Answer, As, Remote, Where, answer, branch_of_line, opened
from forktools.policy import Level
from forktools.reporting import Report, Table
from forktools.sanitize import SUBJECT_LIMIT, markdown, markdown_code, visible
from forktools.settings import current

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 200  # GitHub limits the length of an issue's text


class Shape(enum.StrEnum):
    """The output formats of `backports`: those of every command, and Markdown for the text of an issue."""

    AUTO = "auto"
    TABLE = "table"
    GITHUB = "github"
    JSON = "json"
    MARKDOWN = "markdown"


def audit_(repository: Where = Path(), remote: Remote = "origin", output: As = Answer.AUTO) -> None:
    """Judge all tags and lines, by the rules of today.

    What gates let through is seen here: a tag on a commit without the gate's workflow, a line that was pushed
    past its check. What stays as it is has its reason in the setting `accepted`, and is listed, not judged.
    """
    answer(_audit_report(audit(opened(repository, remote), remote)), output)


def backports_(
    line: Annotated[str, typer.Option(help="The line, as vX.Y.Z.", show_default="the newest")] = "",
    upto: Annotated[
        str, typer.Option(help="How far to look.", show_default="upstream's newest release, or the trunk")
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Show what is no fix, too.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 if anything is listed.")] = False,
    repository: Where = Path(),
    remote: Remote = "origin",
    output: Annotated[
        Shape, typer.Option("--output", "-o", help="`markdown` is the text of an issue.")
    ] = Shape.AUTO,
) -> None:
    """List upstream's fixes since a line's base that the line lacks: vulnerabilities first.

    A line has a commit if it has its patch, or a commit that changes something and names it as the one it was
    picked from. What it does without on record (`forktools replay drop`) is not listed.
    """
    repo = opened(repository, remote)
    branch = branch_of_line(line) if line else newest_line(repo, remote)
    found = find(repo, branch, remote, upto)
    listed = [one for one in found.missing if all_ or one.urgency is not Urgency.OTHER]
    if output is Shape.MARKDOWN:
        typer.echo(_issue(found, listed), nl=False)
        if exit_code and listed:
            raise typer.Exit(1)
        return
    answer(_backports_report(found, listed, ok=not (exit_code and listed)), Answer(output.value))


def _audit_report(found: Audit) -> Report:
    findings = found.findings
    errors = sum(finding.rule.level is Level.ERROR for finding in findings)
    judged = (*found.lines, *found.tags)
    accepted = [one for one in judged if one.accepted]
    summary = (
        f"{len(found.tags)} tags and {len(found.lines)} lines: {errors} violations, "
        f"{len(findings) - errors} warnings, {len(accepted)} accepted."
    )
    document = json_output.document(
        "audit",
        not errors,
        findings,
        tags=[visible(one.name) for one in found.tags],
        lines=[visible(one.name) for one in found.lines],
        accepted={visible(one.name): visible(one.accepted) for one in accepted},
    )
    table = Table("Accepted", ("name", "reason"), tuple((one.name, one.accepted) for one in accepted))
    return Report("audit", summary, document, findings, tables=[table] if accepted else [])


def _backports_report(found: Backports, listed: Sequence[Missing], *, ok: bool) -> Report:
    commits = [
        {
            "commit": one.commit.sha,
            "subject": visible(one.commit.subject, SUBJECT_LIMIT),
            "urgency": one.urgency,
            "vulnerabilities": list(one.names),
            "release": one.release,
        }
        for one in listed
    ]
    document = json_output.document(
        "backports",
        ok,
        line=found.line.branch,
        base=found.line.base,
        upto=visible(found.upto),
        carried=found.carried,
        declined=found.declined,
        commits=commits,
    )
    rows = tuple(
        (str(one.urgency), one.commit.short, one.release, one.commit.subject, ", ".join(one.names))
        for one in listed
    )
    table = Table("Fixes the line lacks", ("urgency", "commit", "release", "subject", "names"), rows)
    steps = ["To bring one in, on a branch from the line:", *(_pick(one) for one in listed[:1])]
    return Report(
        "backports",
        _told(found, listed),
        document,
        tables=[table] if rows else [],
        next_steps=steps if rows else (),
    )


def _told(found: Backports, listed: Sequence[Missing]) -> str:
    urgent = sum(one.urgency is Urgency.SECURITY for one in listed)
    return (
        f"{found.line.branch} up to {found.upto}: {len(listed)} missing, {urgent} of them for security; "
        f"{found.carried} carried, {found.declined} declined on record."
    )


def _issue(found: Backports, listed: Sequence[Missing]) -> str:
    rows = [
        f"| {one.urgency} | {markdown_code(one.commit.short)} | {markdown(one.release)} | "
        f"{markdown_code(visible(one.commit.subject, SUBJECT_LIMIT))} | {markdown(', '.join(one.names))} |\n"
        for one in listed[:ROWS]
    ]
    more = f"\nand {len(listed) - ROWS} more.\n" if len(listed) > ROWS else ""
    table = "| urgency | commit | release | subject | names |\n| --- | --- | --- | --- | --- |\n"
    picks = "\n".join(_pick(one) for one in listed[:ROWS])
    steps = (
        "\nEach in a pull request into the line, its subject as `fix(" + current().scope + "): …`:\n\n"
        f"```\n{picks}\n```\n\nOr on record that the line does without: "
        "`forktools replay drop ID --reason WHY | git commit --allow-empty -F -`.\n"
    )
    return f"## {found.line.branch}\n\n{_told(found, listed)}\n" + (
        f"\n{table}{''.join(rows)}{more}{steps}" if listed else ""
    )


def _pick(one: Missing) -> str:
    return f"git cherry-pick -x {one.commit.sha}"
