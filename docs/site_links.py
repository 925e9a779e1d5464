"""mkdocs hook: links from docs/ to other files of the repository lead to GitHub; the files must exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = "https://github.com/loft-sh/kine/blob/main/"
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)(#[^)]*)?(?=\))")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = (DOCS / page.file.src_path).parent

    def led(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        inside = target.is_relative_to(DOCS) and target.suffix not in (".py", ".sh")
        if inside or not target.exists():  # mkdocs itself reports missing files
            return link[0]
        return f"{REPOSITORY}{target.relative_to(ROOT)}{link[2] or ''}"

    return _LINK.sub(led, markdown)
