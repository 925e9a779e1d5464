"""What every command reads alike: the endpoint and its TLS, and how it answers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kine.config import SettingError, settings
from kine.drivers.base import DriverError
from kine.observe import logging as logs
from kine.transport.base import RpcError

if TYPE_CHECKING:
    from kine.config import Settings

FAILED, MISUSED = 1, 2


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
class Asked:
    """What a command was told of its endpoint, and of how to answer."""

    given: dict[str, str]  # by the server's own names of settings
    output: str

    def settings(self, endpoint: str | None = None) -> Settings:
        """The server's settings, from the options and its own variables; of this endpoint if one is named."""
        given = self.given if endpoint is None else {**self.given, "endpoint": endpoint}
        try:
            found = settings(given, os.environ)
        except SettingError as error:
            misused(str(error))
        hide(found.endpoint)
        return found


def asked(*, endpoint: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options every one has; its parameter `asked` becomes those."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        common = (_ENDPOINT, *_OPTIONS) if endpoint else _OPTIONS

        @wraps(command)
        def called(**values: Any) -> None:
            found = {name: values.pop(name) for name, _, _ in common}
            output = found.pop("output")
            if output not in ("text", "json"):
                misused("--output is text or json")
            given = {name: str(value).lower() if value is True else value for name, value in found.items()}
            command(asked=Asked({name: value for name, value in given.items() if value}, output), **values)

        parameters = [one for one in own.parameters.values() if one.name != "asked"] + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, annotation, default in common
        ]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return with_options


def hide(*endpoints: str) -> None:
    """Keeps the passwords of all of them out of the log."""
    logs.configure(hide=[secret for endpoint in endpoints for secret in logs.secrets_of(endpoint)])
    logging.getLogger("kine").setLevel(logging.WARNING)  # what a server tells of its start is no news here


def run(work: Coroutine[Any, Any, int], failed: int = MISUSED) -> NoReturn:
    """Runs a command to its exit code; `failed` is for an endpoint that fails, told in a line on stderr."""
    try:
        code = asyncio.run(work)
    except ValueError as error:
        misused(str(error))
    except (DriverError, OSError, RpcError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        about = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        say(f"{reason}{about}" if reason else str(error) or type(error).__name__)
        code = failed
    raise typer.Exit(code)


def misused(reason: str) -> NoReturn:
    say(reason)
    raise typer.Exit(MISUSED)


def say(reason: str) -> None:
    sys.stderr.write(f"kine: {logs.escape(logs.redact(reason))}\n")
