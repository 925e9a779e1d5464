"""Check that a documented command can be typed: its program, subcommand, options, files and targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer

import forktools.cli
import kine.commands.command_line
from bench.cli import app as bench_app
from kine.config import FLAGS
from tests.docs.blocks import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TREES: dict[str, Any] = {
    "kine": typer.main.get_command(kine.commands.command_line.app),
    "forktools": typer.main.get_command(forktools.cli.app),
    "bench": typer.main.get_command(bench_app),
}
# Third-party programs, which are not checked.
OTHERS = {
    *("aws", "cd", "curl", "docker", "etcdctl", "export", "git", "go", "kadmin.local", "kubectl", "pip"),
    *("printf", "psql", "source", "tar"),
}
_MAKE_VARIABLES = {"FAULTS": "tests/faults", "FUZZ": "tests/fuzz", "MUTANTS": "tests/mutants"}


def problems(command: str) -> list[str]:
    """Problems of one line of shell."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError as error:
        return [f"{command}: {error}"]
    found: list[str] = []
    part: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", "&&", ";", "||"):
            found += _problems_of_one(part) if part else []
            part = []
        elif word not in (">", "<"):
            part.append(word)
    return [f"{command}: {problem}" for problem in found]


def _problems_of_one(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return []
    program = words[0].rpartition("/")[2]
    match program, words[1:]:
        case "kine", [] | ["-v" | "--version" | "-h" | "--help"]:
            return []
        case "kine", [first, *_] as given if first.startswith("-"):
            return _unknown(given, {f"--{flag.name}" for flag in FLAGS})
        case "kine" | "forktools", given:
            return _of_tree(TREES[program], given)
        case "make", given:
            return [problem for word in given for problem in _of_make(word)]
        case "python" | "python3", ["-m", "bench", *given]:
            return _of_tree(TREES["bench"], given)
        case "python" | "python3", ["-m", module, *given]:
            return _of_module(module, given)
        case "python" | "python3", [file, *_]:
            return [] if (ROOT / file).exists() else [f"{file} is no file"]
        case "pytest", given:
            paths = [word.partition("::")[0] for word in given if word.startswith("tests")]
            return [f"{path} is no file" for path in paths if not (ROOT / path).exists()]
    return [] if program in OTHERS else [f"{program} is not known"]


def _of_tree(command: Any, words: list[str]) -> list[str]:
    options: set[str] = {"--help", "-h"}
    while words and getattr(command, "commands", None):
        name, *words = words
        if name.startswith("-"):
            return []  # of the program itself, such as --settings-from
        if name not in command.commands:
            return [f"no command {name}"]
        command = command.commands[name]
    for parameter in command.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    return _unknown(words, options)


def _unknown(words: list[str], options: set[str]) -> list[str]:
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [f"no option {word}" for word in given if word not in options]


def _of_make(word: str) -> list[str]:
    name, is_set, value = word.partition("=")
    if not is_set:
        target = name.replace(".venv/", "$(VENV)/")
        return [] if re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE) else [f"no target {name}"]
    if not re.search(rf"\$\((?:or \$\()?{name}\)|^{name} ", MAKEFILE, re.MULTILINE):
        return [f"make has no variable {name}"]
    given = shlex.split(value)
    if name in _MAKE_VARIABLES:
        return _of_module(_MAKE_VARIABLES[name].replace("/", "."), given)
    if name == "KINE_ARGS":
        return _unknown(given, {f"--{flag.name}" for flag in FLAGS})
    if name in ("BENCH", "SOAK"):
        return _of_tree(TREES["bench"].commands["all" if name == "BENCH" else "soak"], given)
    return []


def _of_module(module: str, words: list[str]) -> list[str]:
    folder = ROOT / module.replace(".", "/")
    sources = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    if not all(map(Path.exists, sources)):
        return [f"no module {module}"]
    text = "".join(source.read_text() for source in sources)
    given = [word.partition("=")[0] for word in words if word.startswith("--")]

    def there(option: str) -> bool:
        parameter = option.strip("-").replace("-", "_")  # of typer, or of argparse
        return f'"{option}"' in text or re.search(rf"\b{parameter}: ", text) is not None

    return [f"no option {word}" for word in given if word != "--help" and not there(word)]
