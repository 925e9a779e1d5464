"""Every command in the documentation can be typed, and those that need no other machine are run."""

from __future__ import annotations

import runpy
import sqlite3
import subprocess
from collections.abc import Callable

import pytest

from tests.docs import blocks
from tests.docs.blocks import ALL, PAGES, ROOT, SHELL, Block
from tests.docs.command_validity import problems
from tests.docs.conftest import Place

by_block = pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)


def test_blocks_are_found() -> None:
    assert len(SHELL) > 15
    assert {block.kind for block in SHELL} == {"run", "check"}


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_a_block_says_what_it_is(block: Block) -> None:
    """Each block names its language, unless it is a demo's output; and for shell, whether a test runs it."""
    assert block.language or blocks.transcript(block)
    assert bool(block.kind) == (block.language in ("sh", "sql"))


@by_block
def test_shell_is_well_formed(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@by_block
def test_commands_and_their_options_exist(block: Block) -> None:
    assert [problem for command in block.commands() for problem in problems(command)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text_exist(page: object) -> None:
    assert [problem for command in blocks.inline(page) for problem in problems(command)] == []  # type: ignore[arg-type]


def test_the_page_of_commands_is_what_help_says() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "commands.py"))

    assert (ROOT / "docs" / "commands.md").read_text() == script["page"](), "run: python docs/commands.py"


@pytest.mark.parametrize(
    "block",
    [
        # A database server and a fork's repository take half a minute.
        pytest.param(block, marks=[pytest.mark.engines] if {"postgres", "fork"} & set(block.servers) else [])
        for block in SHELL
        if block.kind == "run"
    ],
    ids=lambda block: block.name,
)
def test_commands_do_what_the_page_says(block: Block, arranged: Callable[[Block], Place]) -> None:
    place = arranged(block)

    for command in block.commands():
        done = place.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.servers == ("sql",)], ids=lambda block: block.name
)
def test_statements_can_be_run(block: Block, table: sqlite3.Connection) -> None:
    table.executescript(block.text)
