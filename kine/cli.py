"""The command line: flags and variables in, a running server, an exit code out.

Serving is what `kine` does without a command. A later command is a function with `@app.command()`; the
server's flags stay as they are.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import os
import signal
import ssl
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from kine import tls
from kine.arguments import UsageError, normalize
from kine.commands import check, snapshot, status
from kine.config import FLAGS, SettingError, Settings, settings
from kine.drivers.base import DriverError
from kine.observe import logging as logs
from kine.workers import WorkerError, channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Serve = Callable[[Settings, asyncio.Event], Awaitable[None]]

log = logging.getLogger(__name__)

# Exit codes, told in --help.
STOPPED, FAILED, MISUSED = 0, 1, 2

ABOUT = """Serve the etcd v3 API from SQLite, PostgreSQL, MySQL, MariaDB or NATS JetStream.

Every flag may also be set by the variable named beside it; the flag wins. Durations are written as 1m30s,
5s, 100ms. Logs go to stderr. Flags are listed by what they concern: clients, the database, compaction and
watches, logs and metrics.

SIGTERM or SIGINT stops cleanly: what is accepted is finished. A second one exits at once.

Beside the server there are commands, which take flags of their own after their name: see kine COMMAND --help.

Exit codes: 0 stopped as asked; 1 could not start, or lost what it serves from; 2 wrong usage.
"""

app = typer.Typer(
    name="kine",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


def version() -> str:
    try:
        return installed_version("kine")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "dev"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kine version {version()}")
        raise typer.Exit


def _server(context: typer.Context, print_version: bool, **flags: str | None) -> None:
    if context.invoked_subcommand is None:
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            chosen = settings(given, os.environ)
        except SettingError as error:
            _misused(error)
        inherited = channel.inherited(os.environ)
        if inherited is not None:
            raise typer.Exit(run(chosen, _worker(*inherited), always={"worker": inherited[0]}))
        raise typer.Exit(run(chosen, _serve if chosen.workers == 1 else _supervise))


def _signature() -> inspect.Signature:
    """One option for each flag. They stay text here: `kine.config` reads them, and knows the fix."""
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
app.command("check")(check.check)
app.command("status")(status.status)
app.command("migrate")(snapshot.migrate)
app.add_typer(snapshot.app, name="snapshot")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; exits with its code."""
    written = sys.argv[1:] if arguments is None else arguments
    try:
        normal = normalize(written, {flag.name: flag.is_switch for flag in FLAGS}, _commands())
    except UsageError as error:
        _misused(error)
    app(normal, prog_name="kine")
    sys.exit(STOPPED)


def _commands() -> list[str]:
    named = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    return [name.replace("_", "-") for name in named] + [group.name or "" for group in app.registered_groups]


def _misused(error: Exception) -> NoReturn:
    sys.stderr.write(f"kine: {logs.escape(str(error))}\n")
    sys.exit(MISUSED)


async def _serve(chosen: Settings, stop: asyncio.Event) -> None:
    from kine.server import serve  # here, so that --help and wrong usage do not wait for it

    await serve(chosen, stop)


async def _supervise(chosen: Settings, stop: asyncio.Event) -> None:
    from kine.workers.parent import supervise

    await supervise(chosen, stop)


def _worker(number: int, end: socket.socket) -> Serve:
    async def serve_as_worker(chosen: Settings, stop: asyncio.Event) -> None:
        from kine.server import serve
        from kine.workers.worker import Worker

        await serve(chosen, stop, Worker(number, end))

    return serve_as_worker


def run(chosen: Settings, serve: Serve, always: Mapping[str, object] | None = None) -> int:
    """Runs `serve`, whose event a signal sets; the exit code. Every failure becomes one line in the log.

    `always` are fields of every line.
    """
    hide = logs.secrets_of(chosen.endpoint)
    logs.configure(chosen.log_format, debug=chosen.debug, hide=hide, always=always)
    try:
        tls.check(chosen)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_signal(chosen, serve))
    except WorkerError as error:
        log.critical("%s", error)
        return error.code
    except (DriverError, OSError, SettingError, ValueError) as error:
        log.critical("%s", explain(error), exc_info=chosen.debug)
        return FAILED
    except Exception:
        log.critical("stopped by an error of kine's own; please report it with this line", exc_info=True)
        return FAILED
    return STOPPED


async def _until_signal(chosen: Settings, serve: Serve) -> None:
    stop = asyncio.Event()
    _stop_on_signals(asyncio.get_running_loop(), stop)
    await serve(chosen, stop)


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets `stop`, the second exits at once, even if the loop is stuck."""

    def received(number: int, _: object) -> None:
        if stop_asked:
            os._exit(FAILED)
        stop_asked.append(number)
        loop.call_soon_threadsafe(asked, number)

    def asked(number: int) -> None:
        log.info("stopping on %s; a second one exits at once", signal.Signals(number).name)
        stop.set()

    stop_asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # where it cannot be installed: slower, the same otherwise
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def explain(error: Exception) -> str:
    """The error in one line, with what to do where that is known."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        about = f": {error.filename}" if error.filename else ""
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            return f"{reason}; stop what uses it, or set another --listen-address or --metrics-bind-address"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{reason}; --listen-address and --metrics-bind-address take addresses of this machine"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{reason}{about}; run as a user that may use it, or choose another path or port"
        return f"{reason}{about}"
    return str(error) or type(error).__name__
