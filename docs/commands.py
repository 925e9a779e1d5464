"""Writes docs/commands.md, every command with its options as --help shows them: `python docs/commands.py`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import typer

import forktools.cli
import kine.commands.command_line

PAGE = Path(__file__).with_name("commands.md")
PROGRAMS = {"kine": kine.commands.command_line.app, "forktools": forktools.cli.app}
HEAD = """# Commands

Written by `python docs/commands.py` from the commands' own `--help`; a test compares the two. The flags of
the server, `kine` without a command, are in [operations](operations.md#flags). `kine version`,
`kine --version` and `kine -v` print the release.

In `forktools` the option `-C DIRECTORY` names the repository, and `--output` the form of the answer: `table`
for people, `github` for annotations and a job summary in a workflow, `json` for programs (`forktools schema`
prints its JSON schema), `sarif` for code scanning where a command has findings.
"""


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command with its name as it is typed; groups are left out."""
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, each in below.items():
        if not each.hidden:
            yield from commands(each, f"{path} {name}")


def options(command: Any) -> Iterator[tuple[str, str]]:
    """The options as --help shows them: names, and meanings."""
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        about = " ".join((getattr(parameter, "help", None) or "").split())
        if getattr(parameter, "param_type_name", "") == "argument":
            yield (parameter.metavar or parameter.name or "").strip("{}").upper().replace("|", "/"), about
        elif not getattr(parameter, "hidden", False) and "--install-completion" not in names:
            yield ", ".join(names), about


def _cell(text: str) -> str:
    return re.sub(r"([|<])", r"\\\1", text)


def page() -> str:
    lines = [HEAD]
    for program, app in PROGRAMS.items():
        lines += [f"## {program}", ""]
        for name, command in commands(typer.main.get_command(app), program):
            about = inspect.cleandoc(command.help or "").replace("\b\n", "").strip()
            lines += [f"### {name}", "", _cell(about), ""]
            if rows := list(options(command)):
                lines += ["| option | meaning |", "|---|---|"]
                lines += [f"| `{names}` | {_cell(meaning)} |" for names, meaning in rows]
                lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
