"""Options common to all commands: the endpoint, its TLS, and the output format; and how commands fail."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kine import tls_file_check
from kine.config import settings
from kine.drivers.base import DriverError
from kine.observe import logging as logs
from kine.transport.base import RpcError

if TYPE_CHECKING:
    from kine.config import Settings

FAILED, MISUSED = 1, 2
SERVER = "http://127.0.0.1:2379"
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*):\d+")
_hidden: list[str] = []  # secrets of the endpoints


class UsageError(ValueError):
    """Wrong usage: one line with the reason and the fix."""


def _option(name: str, metavar: str, about: str, kind: Any = str | None, default: Any = None) -> Any:
    option = typer.Option(f"--{name}", metavar=metavar, help=about, show_default=False)
    return name.replace("-", "_"), Annotated[kind, option], default


_ENDPOINT = _option("endpoint", "URL", "As the server's flag. [KINE_ENDPOINT]")
_OPTIONS = (
    _option("ca-file", "FILE", "CA (PEM) of the endpoint's server. [KINE_CA_FILE]"),
    _option("cert-file", "FILE", "Certificate (PEM) shown to it. [KINE_CERT_FILE]"),
    _option("key-file", "FILE", "Its private key. [KINE_KEY_FILE]"),
    (
        "skip_verify",
        Annotated[
            bool,
            typer.Option("--skip-verify", help="Do not check the server's certificate. [KINE_SKIP_VERIFY]"),
        ],
        False,
    ),
    (
        "output",
        Annotated[str, typer.Option("--output", "-o", metavar="text|json", help="How to answer on stdout.")],
        "text",
    ),
)


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """A command's options for its endpoint and its output."""

    given: dict[str, str]  # by the names of the server's settings
    output: str

    def settings(self, endpoint: str | None = None) -> Settings:
        """The server's settings from the options and environment variables, for `endpoint` if it is given."""
        given = self.given if endpoint is None else {**self.given, "endpoint": endpoint}
        if members := _members(given.get("endpoint", "")):
            scheme = (
                "https"
                if any(given.get(name) for name in ("ca_file", "cert_file", "skip_verify"))
                else "http"
            )
            given = {**given, "endpoint": ",".join(f"{scheme}://{member}" for member in members)}
        try:
            found = settings(given, os.environ)
            tls_file_check.check_endpoints(found)
        except ValueError as error:  # SettingError among them
            usage_error(str(error))
        hide(found.endpoint)
        return replace(found, patience=0.0)

    def settings_of_server(self) -> Settings:
        """The settings; without an endpoint, those for a server on this machine."""
        return self.settings(self.given.get("endpoint") or os.environ.get("KINE_ENDPOINT") or SERVER)

    def run(self, work: Coroutine[Any, Any, int], failed: int = MISUSED) -> NoReturn:
        """Runs a command and exits with its code; `failed` is the code for errors of the endpoint."""
        try:
            code = asyncio.run(_until_signal(work))
        except ValueError as error:
            _fail(MISUSED, error, self.output)
        except (DriverError, OSError, RpcError) as error:
            _fail(failed, error, self.output)
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            _fail(FAILED, error, self.output)
        raise typer.Exit(code)


def _members(endpoint: str) -> list[str]:
    """The members of an endpoint in etcdctl's notation, such as `127.0.0.1:2379` or `:2379`; else none."""
    members = endpoint.split(",")
    return members if all(map(_HOST_AND_PORT.fullmatch, members)) else []


def with_endpoint(*, endpoint: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the common options to a command, which gets them as its parameter `asked`."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        common = (_ENDPOINT, *_OPTIONS) if endpoint else _OPTIONS

        @wraps(command)
        def called(**values: Any) -> None:
            found = {name: values.pop(name) for name, _, _ in common}
            output = found.pop("output")
            given = {name: str(value).lower() if value is True else value for name, value in found.items()}
            try:
                if output not in ("text", "json"):
                    usage_error("--output is text or json")
                command(
                    asked=CommandOptions({name: value for name, value in given.items() if value}, output),
                    **values,
                )
            except UsageError as error:
                _fail(MISUSED, error, output)

        parameters = [one for one in own.parameters.values() if one.name != "asked"] + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, annotation, default in common
        ]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return with_options


@contextmanager
def named(option: str) -> Iterator[None]:
    """Prefixes errors in the block with the option that holds the endpoint."""
    from kine.commands.spool import SpoolError

    def of_option(error: Exception) -> str:
        return f"{option}: {_explained(error).replace('--endpoint', option)}"

    try:
        yield
    except SpoolError:
        raise
    except UsageError as error:
        usage_error(of_option(error))
    except ValueError as error:
        raise ValueError(of_option(error)) from error
    except (DriverError, OSError, RpcError) as error:
        raise DriverError(of_option(error)) from error


def hide(*endpoints: str) -> None:
    """Masks the secrets of these endpoints in the log."""
    _hidden[:] = logs.longest_first(secret for endpoint in endpoints for secret in logs.secrets_of(endpoint))
    logs.configure(hide=_hidden)
    logging.getLogger("kine").setLevel(logging.WARNING)  # hides the info lines of a server's start


def usage_error(reason: str) -> NoReturn:
    raise UsageError(reason)


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Handles SIGTERM like Ctrl-C: everything is closed, and no half-written file stays."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _explained(error: BaseException) -> str:
    """The message, in one line, of an error that ends a command."""
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return "interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, OSError | ValueError | DriverError | RpcError):
        return str(error) or type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {os.path.basename(place[0].filename)}:{place[0].lineno}" if place else ""
    return (
        f"stopped by an error of kine's own, {type(error).__name__}: {error}{where}; please report it,"
        " with the traceback that KINE_DEBUG=true adds"
    )


def _fail(code: int, error: BaseException, output: str) -> NoReturn:
    """Exits with the reason as one line on stderr and, with `--output json`, as JSON on stdout."""
    reason = logs.escape(logs.redact(_explained(error), _hidden))
    if os.environ.get("KINE_DEBUG", "").lower() in ("1", "true"):
        sys.stderr.write(logs.redact("".join(traceback.format_exception(error)), _hidden))
    sys.stderr.write(f"kine: {reason}\n")
    if output == "json":
        print(json.dumps({"error": reason}))  # noqa: T201
    raise typer.Exit(code)
