"""Generator of the table of flags in docs/operations.md: `python docs/flags.py`. A test compares the two."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kine.config import FLAGS

PAGE = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- flags: written by docs/flags.py -->\n", "<!-- end of flags -->\n"


def table() -> str:
    lines = []
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        lines += ["", f"### {group}", "", "| flag | variable | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `--{flag.name}` | `{flag.variable}` | {f'`{flag.default}`' if flag.default else ''} "
            f"| {flag.help.replace('|', chr(92) + '|')} |"
            for flag in FLAGS
            if flag.group == group
        ]
    return "\n".join(lines) + "\n\n"


def page(text: str) -> str:
    """The page's text with the table of the current flags."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
