"""The documentation site: its pages and its hook. `make docs` builds it and fails on a dead link."""

from __future__ import annotations

import re
import runpy
from types import SimpleNamespace

import pytest

from tests.docs.blocks import ROOT

CONFIGURATION = (ROOT / "mkdocs.yml").read_text()
DOCS = ROOT / "docs"
NAV = re.findall(r"[\w./-]+\.md$", CONFIGURATION.partition("\nnav:\n")[2], re.MULTILINE)


def test_navigation_leads_to_every_page_for_users() -> None:
    assert [page for page in NAV if not (DOCS / page).exists()] == []
    assert {page.name for page in DOCS.glob("*.md")} <= set(NAV)


@pytest.mark.parametrize("folder", ["adr", "history"])
def test_records_are_listed(folder: str) -> None:
    listed = set(re.findall(r"\]\(([\w.-]+\.md)\)", (DOCS / folder / "README.md").read_text()))

    assert {page.name for page in (DOCS / folder).glob("*.md")} - {"README.md"} == listed


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](nats.md#history)", "[a](nats.md#history)"),
        ("[a](https://example.com)", "[a](https://example.com)"),
        ("[a](../README.md)", "[a](https://github.com/loft-sh/kine/blob/main/README.md)"),
        (
            "[a](../CONTRIBUTING.md#commits)",
            "[a](https://github.com/loft-sh/kine/blob/main/CONTRIBUTING.md#commits)",
        ),
        ("[a](../is-not-there.md)", "[a](../is-not-there.md)"),
    ],
)
def test_links_out_of_the_site_lead_to_the_repository(link: str, led: str) -> None:
    hook = runpy.run_path(str(DOCS / "site_links.py"))["on_page_markdown"]

    assert hook(link, page=SimpleNamespace(file=SimpleNamespace(src_path="operations.md"))) == led


_STATEMENT = re.compile(
    r"sequenceDiagram|participant \w+ as [^#;]+|\w+(?:-->>|->>)\w+: [^#;]+|Note over \w+: [^#;]+"
    r"|(?:alt|opt|loop|else)(?: [^#;]+)?|end"
)


def test_sequence_diagrams_are_well_formed() -> None:
    """Mermaid takes a semicolon or a hash as the end of a statement."""
    text = (DOCS / "architecture.md").read_text()
    diagrams = re.findall(r"```mermaid\n(sequenceDiagram\n.*?)```", text, re.DOTALL)

    assert len(diagrams) == 4
    for diagram in diagrams:
        lines = [line.strip() for line in diagram.splitlines() if line.strip()]
        assert [line for line in lines if not _STATEMENT.fullmatch(line)] == []
        opened = sum(line.split()[0] in ("alt", "opt", "loop") for line in lines)
        assert opened == lines.count("end")
        actors = {line.split()[1] for line in lines if line.startswith("participant")}
        used = {name for line in lines for name in re.findall(r"^(\w+)-->?>(\w+)", line) for name in name}
        assert used <= actors
