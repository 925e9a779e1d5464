"""The typer application: subcommands, and `--help` for them and the server.

Imported only for a subcommand or `--help`: a server starts without it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kine.commands import check, completion, snapshot, status
from kine.config import FLAGS
from kine.version import version

if TYPE_CHECKING:
    from collections.abc import Callable

ABOUT = """Serve the etcd v3 API from SQLite, PostgreSQL, MySQL, MariaDB or NATS JetStream.

Every flag can also be set by the environment variable in its description; the flag takes precedence.
Durations are written as 1m30s, 5s, 100ms. Logs go to stderr. Flags are grouped: clients, the database,
compaction and watches, logs and metrics.

SIGTERM or SIGINT stops gracefully: accepted requests are finished. A second one exits at once.

Other commands have their own flags, after the command's name: see kine COMMAND --help.

Exit codes: 0 stopped by a signal; 1 could not start, or lost its database; 2 wrong usage.
"""


class _ByGroup(TyperGroup):
    """Formats help with the flags in groups, as the manual does."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups = {f"--{flag.name}": flag.group for flag in FLAGS}
        sections: dict[str, list[tuple[str, str]]] = {flag.group: [] for flag in FLAGS}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(groups.get(parameter.opts[0], "Others"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)


app = typer.Typer(
    name="kine",
    cls=_ByGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kine version {version()}")
        raise typer.Exit


def _server(context: typer.Context, print_version: bool, **flags: str | None) -> None:
    """Flags before a command are the server's."""


def _signature() -> inspect.Signature:
    """One option for each flag, with text as its value: `kine.config` parses it and explains errors."""
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter(
            "print_version",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool,
                typer.Option(
                    "--version", "-v", help="Print the version.", callback=_print_version, is_eager=True
                ),
            ],
        ),
    ]
    for flag in FLAGS:
        option = typer.Option(
            f"--{flag.name}",
            metavar=flag.placeholder,
            help=f"{flag.help} [{flag.variable}{'; default ' if flag.default else ''}{flag.default}]",
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                flag.field,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, option],
            )
        )
    return inspect.Signature(parameters)


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    signature = _signature()
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {name: found.annotation for name, found in signature.parameters.items()}
    return function


app.callback(invoke_without_command=True, help=ABOUT)(_with_flags(_server))


@app.command("version")
def _version() -> None:
    """Print the version."""
    _print_version(True)


app.command("completion")(completion.completion)
app.command("check")(check.check)
app.command("status")(status.status)
app.command("migrate")(snapshot.migrate)
app.add_typer(snapshot.app, name="snapshot")
