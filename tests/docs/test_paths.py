"""Files, folders and anchors that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

# Dated records name files that existed at the time.
CURRENT = [page for page in PAGES if page.parent.name not in ("history", "upstream")]
_PATH = re.compile(
    r"`((?:kine|forktools|bench|tests|docs|examples|release(?!/vcluster)|updatecli|\.ci)/[\w./*-]+)"
)


def slug(heading: str) -> str:
    """The anchor that GitHub, and the site, give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


by_page = pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_paths_exist(page: Path) -> None:
    named = {path.rstrip("./") for path in _PATH.findall(page.read_text()) if "NAME" not in path}

    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []


@by_page
def test_links_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#\s]*)#([^)]+)\)", page.read_text())
    missing = [
        f"{path}#{anchor}"
        for path, anchor in links
        if anchor not in anchors((page.parent / path) if path else page)
    ]

    assert missing == []
