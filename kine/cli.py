"""The `kine` command: parses flags and variables, runs the server or a subcommand, exits with a code.

Without a subcommand, `kine` serves; the subcommands are in `kine.commands`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import ssl
import sys
from typing import TYPE_CHECKING, NoReturn

from kine import tls_file_check
from kine.config import FLAGS, T4_FLAGS, SettingError, Settings, settings
from kine.drivers import NO_T4
from kine.drivers.base import DriverError
from kine.go_flags import UsageError, normalize
from kine.observe import logging as logs
from kine.workers import WorkerError, parent_channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Serve = Callable[[Settings, asyncio.Event], Awaitable[None]]

log = logging.getLogger(__name__)

# Exit codes, documented in --help.
STOPPED, FAILED, MISUSED = 0, 1, 2

# In the order of --help; `kine.commands.command_line` defines them.
COMMANDS = ("version", "completion", "check", "status", "migrate", "snapshot")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line, and exits with its code."""
    written = sys.argv[1:] if arguments is None else arguments
    try:
        switches = {flag.name: flag.is_switch for flag in FLAGS}
        normal = normalize(written, switches, COMMANDS, dict.fromkeys(T4_FLAGS, NO_T4))
    except UsageError as error:
        _misused(error)
    if all("=" in argument for argument in normal):  # no subcommand, --help or --version
        sys.exit(_server(dict(argument.removeprefix("--").split("=", 1) for argument in normal)))
    from kine.commands.command_line import app  # here, as a server is started without it

    app(normal, prog_name="kine")
    sys.exit(STOPPED)


def _server(flags: Mapping[str, str]) -> int:
    fields = {flag.name: flag.field for flag in FLAGS}
    try:
        chosen = settings({fields[name]: value for name, value in flags.items()}, os.environ)
    except SettingError as error:
        _misused(error)
    inherited = parent_channel.inherited(os.environ)
    if inherited is not None:
        return run(chosen, _worker(*inherited), always={"worker": inherited[0]})
    return run(chosen, _serve if chosen.workers == 1 else _supervise)


def _misused(error: Exception) -> NoReturn:
    sys.stderr.write(f"kine: {logs.escape(str(error))}\n")
    sys.exit(MISUSED)


async def _serve(chosen: Settings, stop: asyncio.Event) -> None:
    from kine.server import serve  # here, so that --help and usage errors do not wait for the import

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
    """Runs `serve` until a signal, and returns the exit code. Every failure is logged as one line.

    `always` are fields of every log line.
    """
    hide = logs.secrets_of(chosen.endpoint)
    logs.configure(chosen.log_format, debug=chosen.debug, hide=hide, always=always)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # as Go's runtime does
    try:
        tls_file_check.check(chosen)
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
    except ImportError:  # uvloop is optional: asyncio's loop is slower, but works the same
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def explain(error: Exception) -> str:
    """The error in one line, with advice if there is any."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        about = f": {error.filename}" if error.filename else ""
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            return f"{reason}; stop what uses it, or set another --listen-address or --metrics-bind-address"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{reason}; --listen-address and --metrics-bind-address take addresses of this machine"
        if error.errno == errno.ENOENT and error.filename:
            return f"{reason}{about}; create its directory, or choose another path"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{reason}{about}; run as a user that may use it, or choose another path or port"
        return f"{reason}{about}"
    return str(error) or type(error).__name__
