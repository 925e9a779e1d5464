"""The standard files at the repository's root exist, and their contents are true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_keep_githubs_schema(path: Path) -> None:
    subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", path], check=True
    )


def test_issue_links_keep_githubs_schema() -> None:
    subprocess.run(
        [
            BIN / "check-jsonschema",
            "--builtin-schema",
            "vendor.github-issue-config",
            ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml",
        ],
        check=True,
    )


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hooks_are_commands_that_exist(hook: dict[str, str]) -> None:
    program, *arguments = hook["entry"].split()
    flags = [argument for argument in arguments if argument.startswith("--")]
    called = [BIN / Path(program).name, *(each for each in arguments if each not in flags), "--help"]

    shown = subprocess.run(called, capture_output=True, text=True, check=True).stdout

    assert program.startswith(".venv/bin/")
    assert [flag for flag in flags if flag not in shown] == []


def test_changelog_is_forktools() -> None:
    written = subprocess.run(
        [BIN / "forktools", "changelog"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert (ROOT / "CHANGELOG.md").read_text().splitlines()[:3] == written.splitlines()[:3]


def test_editors_keep_ruffs_line_length() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    python = (ROOT / ".editorconfig").read_text().split("[*.py]\n")[1]

    assert re.match(r"max_line_length = (\d+)", python)[1] == str(ruff["line-length"])  # type: ignore[index]


def test_make_help_has_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert targets is not None
    assert {line.split()[0] for line in shown.splitlines()} == set(targets[1].split())


def test_chosen_backends_need_no_package_of_the_system() -> None:
    plan = ["make", "--always-make", "--dry-run", "test", "BACKENDS=sqlite memory"]
    steps = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--backend sqlite --backend memory" in steps
    assert "install.sh" not in steps
