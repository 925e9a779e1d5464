"""README.md and docs/performance.md quote the figures of the stored reports."""

from __future__ import annotations

import pytest

from bench import doc_figures
from bench.published_reports import ROOT, read

STORED = read()


@pytest.mark.parametrize("name", doc_figures.PAGES)
def test_quoted_figures_are_the_reports(name: str) -> None:
    text = (ROOT / name).read_text()

    assert text.count("<!-- figures: ") >= 3
    assert doc_figures.page(text, STORED) == text, "run: python -m bench figures"


def test_reports_are_read_back() -> None:
    assert {server for _, server in STORED.rates} == STORED.durability.keys()
    assert STORED.survives("etcd") == STORED.survives("kine-postgres") == "power loss"
    assert STORED.survives("kine-sqlite") == "a killed process"
    assert STORED.times("create", "kine-sqlite", "kine-sqlite") == "1.0"


def test_the_chart_is_there_for_light_and_dark_pages() -> None:
    readme = (ROOT / "README.md").read_text()

    for theme in ("light", "dark"):
        assert f"docs/performance/front-{theme}.svg" in readme
        assert (ROOT / f"docs/performance/front-{theme}.svg").read_text().endswith("</svg>\n")
