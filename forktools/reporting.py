"""Reports of the commands, and their output formats: terminal tables, GitHub Actions, JSON, SARIF.

Text from the repository is made visible (`forktools.sanitize`) only here and in `forktools.json_output`; the
rest of the program keeps it unchanged.
"""

from __future__ import annotations

import enum
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from forktools.policy import Level
from forktools.sanitize import (
    SUBJECT_LIMIT,
    annotation_data,
    annotation_property,
    json_text,
    markdown,
    markdown_code,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forktools.policy import Finding

# A job summary over 1 MiB makes the step fail, so the summary of a flood of findings is cut.
SUMMARY_LIMIT = 900_000
SUMMARY_ROWS = 500
BLOCK_LINES = 60
# GitHub shows ten annotations of each level per step; the last one gives the total.
ANNOTATIONS = 10
# Wrapping and drawing takes a millisecond a row; JSON has all rows.
TABLE_ROWS = 1000
# A log has no width; at this one a subject rarely wraps.
LOG_WIDTH = 160

_STYLES = {
    "error": "bold red",
    "missing": "bold red",
    "reverted": "bold red",
    "conflicts": "bold red",
    "warning": "yellow",
    "changed in replay": "yellow",
    "undecided": "yellow",
    "stray": "yellow",
    "replayed": "green",
    "replayed by trailer": "green",
    "in upstream": "green",
    "pick": "green",
}


class Output(enum.StrEnum):
    """The output formats of a command with findings."""

    AUTO = "auto"
    TABLE = "table"
    GITHUB = "github"
    JSON = "json"
    SARIF = "sarif"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Lines shown verbatim, such as a range-diff; `command` is the command that shows all of them."""

    title: str
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One command's result. `summary` is one line; `document` is the result as data (see schema.json)."""

    command: str
    summary: str
    document: dict[str, object]
    findings: Sequence[Finding] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Block] = ()
    sarif: dict[str, object] | None = None
    next_steps: Sequence[str] = field(default=())

    @property
    def errors(self) -> int:
        return sum(finding.rule.level is Level.ERROR for finding in self.findings)


def resolve(output: Output) -> Output:
    """The format that `auto` stands for: GitHub's in a workflow, tables elsewhere."""
    if output is not Output.AUTO:
        return output
    return Output.GITHUB if os.environ.get("GITHUB_ACTIONS") == "true" else Output.TABLE


def show(report: Report, output: Output) -> None:
    """Writes the report to standard output and, in a workflow, to the job summary."""
    output = resolve(output)
    if output is Output.JSON:
        print(json_text(report.document))  # noqa: T201
    elif output is Output.SARIF:
        print(json_text(report.sarif))  # noqa: T201
    else:
        _show_tables(report)
        if output is Output.GITHUB:
            for line in workflow_commands(report.findings):
                print(line)  # noqa: T201
            _append_summary(report)
    sys.stdout.flush()


def workflow_commands(findings: Sequence[Finding]) -> Iterator[str]:
    """Workflow commands: one for each finding, up to the number of each level that GitHub shows."""
    for level in Level:
        listed = [finding for finding in findings if finding.rule.level is level]
        shown = listed if len(listed) <= ANNOTATIONS else listed[: ANNOTATIONS - 1]
        for finding in shown:
            title = annotation_property(finding.rule.name)
            where = f",file={annotation_property(visible(finding.path))}" if finding.path is not None else ""
            yield f"::{level} title={title}{where}::{annotation_data(_sentence(finding))}"
        if more := len(listed) - len(shown):
            rules = Counter(finding.rule.name for finding in listed).most_common()
            told = ", ".join(f"{count} {name}" for name, count in rules)
            text = f"{more} more {level}s ({told} in all): see the job's summary and log."
            yield f"::{level} title=forktools::{annotation_data(text)}"


def step_summary(report: Report) -> str:
    """The report as Markdown."""
    mark = "❌" if report.errors else "✅"
    parts = [f"### {mark} forktools {report.command}\n\n{markdown(report.summary)}\n"]
    tables = [findings_table(report.findings), *report.tables] if report.findings else [*report.tables]
    parts += [_markdown_table(table) for table in tables]
    parts += [
        f"<details><summary>{markdown(block.title)}</summary>\n\n"
        f"<pre>{'&#10;'.join(markdown(line) for line in _shortened(block))}</pre>\n\n</details>\n"
        for block in report.blocks
    ]
    text = ""
    for part in parts:
        if len((text + part).encode()) > SUMMARY_LIMIT:
            return text + "\nThe rest is too long for a summary; see the log.\n"
        text += part
    return text


def findings_table(findings: Sequence[Finding]) -> Table:
    """Findings as a table: one row each."""
    return Table(
        "Findings",
        ("level", "commit", "subject", "path", "rule", "what and how to fix it"),
        tuple(
            (
                str(finding.rule.level),
                finding.sha[:12],
                finding.subject,
                finding.path or "",
                finding.rule.name,
                f"{finding.message}. {finding.rule.fix}",
            )
            for finding in findings
        ),
    )


def _sentence(finding: Finding) -> str:
    subject = f' "{visible(finding.subject, SUBJECT_LIMIT)}"' if finding.subject else ""
    commit = f"{finding.sha[:12]}{subject}: " if finding.sha else ""
    path = f" ({visible(finding.path)})" if finding.path is not None else ""
    return f"{commit}{visible(finding.message)}{path}. {finding.rule.fix}"


def _show_tables(report: Report) -> None:
    on_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if on_terminal else LOG_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )
    for table in report.tables:
        console.print(_rich_table(table))
    if report.findings:
        console.print(_rich_table(findings_table(report.findings)))
    for block in report.blocks:
        console.print(Text(visible(block.title), style="bold"))
        for line in _shortened(block):  # prefixed with a bar, so no line can be a workflow command
            console.print(Text(f"│ {visible(line)}"), overflow="fold", no_wrap=True, crop=False)
    style = "bold red" if report.errors else "bold green"
    console.print(Text(visible(report.summary), style=style), soft_wrap=True)
    for step in report.next_steps:
        console.print(Text(f"  {visible(step)}"), soft_wrap=True)


def _rich_table(table: Table) -> RichTable:
    # A left border on every line, because a wrapped cell must not begin a line.
    rich = RichTable(title=table.title, title_justify="left", box=box.ROUNDED, title_style="bold")
    used = [index for index in range(len(table.columns)) if any(row[index] for row in table.rows)]
    for index in used:
        rich.add_column(table.columns[index], overflow="fold")
    for row in table.rows[:TABLE_ROWS]:
        shown = [visible(row[index], _limit(table.columns[index])) for index in used]
        rich.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in shown))
    if len(table.rows) > TABLE_ROWS:
        rich.caption = f"{len(table.rows) - TABLE_ROWS:,} more rows: --output json has them all."
    return rich


def _limit(column: str) -> int | None:
    return SUBJECT_LIMIT if column == "subject" else None


def _markdown_table(table: Table) -> str:
    columns = f"| {' | '.join(table.columns)} |\n|{' --- |' * len(table.columns)}\n"
    head = f"\n#### {markdown(table.title)}\n\n{columns}"
    rows = [
        "| "
        + " | ".join(markdown_code(visible(cell, SUBJECT_LIMIT)) if cell else "" for cell in row)
        + " |\n"
        for row in table.rows[:SUMMARY_ROWS]
    ]
    more = len(table.rows) - SUMMARY_ROWS
    return head + "".join(rows) + (f"\n… and {more} more, see the log.\n" if more > 0 else "")


def _shortened(block: Block) -> list[str]:
    lines = block.text.expandtabs(4).rstrip("\n").split("\n")
    if len(lines) <= BLOCK_LINES:
        return lines
    rest = f"… {len(lines) - BLOCK_LINES} more lines"
    return [*lines[:BLOCK_LINES], f"{rest}: {block.command}" if block.command else rest]


def _append_summary(report: Report) -> None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(step_summary(report))
