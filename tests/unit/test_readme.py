"""README.md and docs/ are accurate: the commands exist, the flags and metrics are the existing ones."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from kine.config import FLAGS
from kine.observe.metrics import READINGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

COMMANDS = sorted(
    {target for line in re.findall(r"\bmake ([a-z][a-z -]*)", README) for target in line.split()}
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKS = [
    (page.relative_to(ROOT), link)
    for page in PAGES
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text())
    if "://" not in link
]


def test_readme_begins_with_the_two_commands() -> None:
    assert COMMANDS
    assert README.split("```")[1].split("\n")[1:3] == [
        "make run     # serve the etcd API on 127.0.0.1:2379, data in ./db/state.db",
        "make test    # run the tests",
    ]


@pytest.mark.parametrize("target", COMMANDS)
def test_make_knows_the_command(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_to_a_file(page: Path, link: str) -> None:
    assert (ROOT / page.parent / link.partition("#")[0]).exists()


def test_flags_named_exist() -> None:
    of_commands = {"help", "name", "output", "from", "to", "metrics", "bump-revision", "force"}
    named = set(re.findall(r"--([a-z][a-z-]+)", OPERATIONS)) - of_commands

    assert named == {flag.name for flag in FLAGS}


def test_table_of_flags_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "flags.py"))

    assert script["page"](OPERATIONS) == OPERATIONS, "run: python docs/flags.py"


def test_every_reading_is_documented() -> None:
    assert set(READINGS) <= set(re.findall(r"^\| `(kine_\w+)` ", OPERATIONS, re.MULTILINE))
