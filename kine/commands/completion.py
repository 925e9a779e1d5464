"""`kine completion`: a static completion script for the shell, with all commands and flags in it.

A script that runs kine for each completion would take as long as kine's start.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

SHELLS = ("bash", "zsh", "fish")


def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")]
) -> None:
    """Print the script that completes commands and flags in a shell.

    bash: source <(kine completion bash). zsh: the same, with zsh. fish: kine completion fish | source. Put
    the line into the shell's start-up file to keep it.

    Exit codes: 0 printed; 2 wrong usage.
    """
    if shell not in SHELLS:
        raise typer.BadParameter("write bash, zsh or fish")
    assert context.parent is not None
    words = _words(context.parent.command)
    print(_fish(words) if shell == "fish" else _bash(words, zsh=shell == "zsh"))  # noqa: T201


def _words(command: Any, path: str = "") -> dict[str, list[str]]:
    """Subcommands and flags by a command's path; the server's path is empty."""
    named = getattr(command, "commands", {})
    flags = [option for one in command.params for option in one.opts if option.startswith("--")]
    found = {path: [*named, *flags, "--help"]}
    for name, inner in named.items():
        found |= _words(inner, f"{path} {name}".strip())
    return found


def _bash(words: dict[str, list[str]], *, zsh: bool) -> str:
    cases = "\n".join(
        f'    "{path}") words="{" ".join(found)}" ;;' for path, found in sorted(words.items(), reverse=True)
    )
    paths = "|".join(f'"{path}"' for path in words if path)
    start = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{start}_kine() {{
  local path="" words="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
      {paths}) path="${{path:+$path }}$word" ;;
    esac
  done
  case "$path" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _kine kine"""


def _fish(words: dict[str, list[str]]) -> str:
    lines = ["complete -c kine -e"]
    for path, found in words.items():
        condition = " and ".join(f"__fish_seen_subcommand_from {name}" for name in path.split())
        condition = condition or "__fish_use_subcommand"
        for word in found:
            what = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c kine -n '{condition}' {what}")
    return "\n".join(lines)
