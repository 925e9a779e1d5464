"""Go-style command-line flags, normalized to the form `--name=value`.

Flags are read as by Go's flag package, so that command lines of Go kine work: `-debug`, `--debug=true`,
`--endpoint x`, `-endpoint=x`, and a value that begins with a dash. Errors name what to write instead.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from kine.flag_values import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

BARE = {"h": "--help", "help": "--help", "v": "--version", "version": "--version"}


class UsageError(ValueError):
    """Arguments that cannot be used: one line with the reason and the fix."""


def normalize(
    arguments: Sequence[str],
    switches: Mapping[str, bool],
    commands: Collection[str] = (),
    unsupported: Mapping[str, str] | None = None,
) -> list[str]:
    """The arguments with every flag before the first command as `--name=value`.

    `switches` has the flags by name: True for one that stands alone or takes `=true`, False for one that
    takes a value. `unsupported` has flags of Go kine that this kine lacks, and what to use instead. A command
    and the arguments after it are unchanged. Raises `UsageError`.
    """
    rewritten: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument in ("-", "--"):
            position = [argument, *rest] if argument != "--" else rest
            if position:
                rewritten += _command(position, commands)
            return rewritten
        name, equals, value = argument[2 if argument.startswith("--") else 1 :].partition("=")
        if name in BARE and not equals:
            rewritten.append(BARE[name])
        elif unsupported and name in unsupported:
            raise UsageError(f"--{name}: {unsupported[name]}")
        elif name not in switches:
            raise UsageError(f"{_shown(name)} is not a flag{_nearest(name, switches)}")
        elif switches[name]:
            rewritten.append(f"--{name}={value if equals else 'true'}")
        elif equals or rest:
            rewritten.append(f"--{name}={value if equals else rest.pop(0)}")
        else:
            raise UsageError(f"--{name} needs a value; write --{name}=VALUE, see --help")
    return rewritten


def _command(position: Sequence[str], commands: Collection[str]) -> Sequence[str]:
    if position[0] in commands:
        return position
    if position[0] == "help":
        return ["--help"]
    # An endpoint in the wrong place is not shown, as it may contain a password.
    known = f", or one of the commands {', '.join(sorted(commands))}" if commands else ""
    raise UsageError(
        f"an argument stands alone where only flags are read; write --NAME=VALUE{known} (see --help)"
        if "://" in position[0] or "@" in position[0]
        else f"{quoted(position[0])} stands alone where only flags are read; "
        f"write --NAME=VALUE (a switch takes its value as --NAME=true){known}"
    )


def _shown(name: str) -> str:
    """The flag for an error message; not shown if it may be something else, such as an endpoint."""
    return f"--{name}" if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else "one of the arguments"


def _nearest(name: str, switches: Mapping[str, bool]) -> str:
    near = get_close_matches(name, switches, n=1)
    return f"; did you mean --{near[0]}?" if near else "; see --help for all of them"
