"""The scripts of `kine completion`, and --help, in a user's shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from kine.cli import main
from kine.config import FLAGS


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kine snap", {"snapshot"}),
        ("kine --compact-b", {"--compact-batch-size"}),
        ("kine snapshot s", {"save", "status"}),
        ("kine snapshot save --for", {"--force"}),
        ("kine migrate --endpoint http://a --t", {"--to"}),
    ],
)
def test_bash_completes_commands_and_flags(
    line: str, expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script = printed(capsys, "completion", "bash")
    words = line.split()
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _kine; echo "${{COMPREPLY[@]}}"'

    answer = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)

    assert set(answer.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "completion", shell)

    assert "snapshot" in script
    if shutil.which(shell):
        subprocess.run([shell, "-c", script], check=True)


def test_help_lists_flags_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help")

    titles = [f"\n{group}:\n" for group in dict.fromkeys(flag.group for flag in FLAGS)]
    places = [text.index(title) for title in (*titles, "\nOthers:\n", "\nCommands:\n")]
    assert places == sorted(places)
    for title, flag in zip(
        titles, ("listen-address", "endpoint", "compact-interval", "log-format"), strict=True
    ):
        assert text.index(title) < text.index(f"--{flag} ")


def test_version_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "version") == printed(capsys, "--version")
