"""Parser of the commands in the documentation: fenced blocks with the marker before them, and inline code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "examples" / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "performance" not in page.parent.name  # written by `bench`, with its own commands
    ),
]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>run|check)(?:: (?P<servers>[\w ]+))? -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = ("kine", "forktools", "make", "pytest", "python")


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    kind: str  # run, check, or nothing
    servers: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """The commands, with continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, match.start("text")),
            match["language"],
            match["kind"] or "",
            tuple((match["servers"] or "").split()),
            match["text"],
        )
        for match in _BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "sh"]


def transcript(block: Block) -> bool:
    """The output of a demo: commands and what they print."""
    return block.text.startswith("$ ")


def inline(page: Path) -> list[str]:
    """Commands in the text of a page: inline code that begins with one of the programs."""
    text = _BLOCK.sub("", page.read_text())
    found = re.findall(r"`([^`\n]+)`", text)
    return [one for one in found if re.match(rf"(?:{'|'.join(PROGRAMS)}) [a-z./-]", one) and "…" not in one]
