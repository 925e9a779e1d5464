"""The hunks of a patch, as `git diff-tree -p` prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDEX = re.compile(rb"^index ([0-9a-f]+)\.\.")
_COMMIT = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class PatchHunk:
    """One hunk: its commit (empty for a comparison of two trees), the id of the file before it, the number
    of the first line before it, and the lines before and after it, context lines in both."""

    commit: str
    blob: bytes
    start: int
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


def parse(shown: bytes) -> Iterator[PatchHunk]:
    """The hunks in `diff-tree` output; lines are counted, because a file's line can look like a header."""
    commit, blob, start, olds, news = "", b"", 0, 0, 0
    before: list[bytes] = []
    after: list[bytes] = []
    for line in shown.split(b"\n"):
        if olds or news:
            if not line.startswith((b"\\", b"+")):
                before.append(line[1:])
                olds -= 1
            if not line.startswith((b"\\", b"-")):
                after.append(line[1:])
                news -= 1
            if not (olds or news):
                yield PatchHunk(commit, blob, start, tuple(before), tuple(after))
        elif match := _HUNK.match(line):
            start = int(match[1])
            olds, news = (1 if match[n] is None else int(match[n]) for n in (2, 4))
            before, after = [], []
        elif match := _INDEX.match(line):
            blob = match[1]
        elif _COMMIT.fullmatch(line):
            commit = line.decode()
