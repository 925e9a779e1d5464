"""Conflict hunks of a file, and reuse of the way a similar hunk was resolved before.

A conflict of a whole file recurs unchanged only while nothing around it moves, and something always does,
such as a pinned version on the next line. So each hunk is compared on its own: its base and its two sides. A
recorded resolution applies to a new hunk on two conditions: the same change comes in (the lines that the
picked commit removes and adds); and the person's change of the line's old side affects other lines than the
line's own changes since then. An ambiguous hunk is never resolved.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

from forktools import isolated_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import git

Lines = tuple[bytes, ...]

_LINE = re.compile(rb"[^\n]*\n")
_TOO_LONG = 20_000  # lines: the comparison takes quadratic time
_WIDTH = 37  # of markers; a text with such a line is left to a person


@dataclass(frozen=True, slots=True)
class Stages:
    """The three texts of a file in conflict: the common base, the line's, the picked commit's."""

    base: bytes
    ours: bytes
    theirs: bytes


@dataclass(frozen=True, slots=True)
class Hunk:
    """One conflict of a file."""

    base: Lines
    ours: Lines
    theirs: Lines


@dataclass(frozen=True, slots=True)
class Settled:
    """A hunk, and the lines with which a person resolved it."""

    hunk: Hunk
    lines: Lines


def split(repo: git.Repo, stages: Stages) -> tuple[Lines | Hunk, ...] | None:
    """A file's merge: unconflicted text and conflicts, alternating; text comes first and last.

    None if git finds no conflict in it, or it is not lines of text.
    """
    texts = (stages.ours, stages.base, stages.theirs)
    marks = [bytes([char]) * _WIDTH for char in b"<|=>"]
    if any(b"\0" in text or text[-1:] not in (b"", b"\n") for text in texts):
        return None
    if any(line.startswith(mark) for text in texts for line in _lines(text) for mark in marks):
        return None
    with tempfile.TemporaryDirectory(prefix="forktools-") as scratch:
        files = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for file, text in zip(files, texts, strict=True):
            file.write_bytes(text)
        given = ("--diff3", f"--marker-size={_WIDTH}", *(word for mark in "obt" for word in ("-L", mark)))
        status, merged, _ = isolated_git.run(repo, "merge-file", "-p", *given, *map(str, files))
    return tuple(_parts(_lines(merged), marks)) if 0 < status < 128 else None  # status: number of conflicts


def settled(repo: git.Repo, stages: Stages, after: bytes) -> tuple[tuple[Settled, ...], bool]:
    """The hunks of a file with the person's resolution of each, as far as it can be determined, and whether
    the person changed nothing else in the file."""
    parts = split(repo, stages)
    if parts is None or after[-1:] not in (b"", b"\n"):
        return (), False
    marked = [line for part in parts for line in ((part,) if isinstance(part, Hunk) else part)]
    lines = _lines(after)
    if len(marked) + len(lines) > _TOO_LONG:
        return (), False
    forwards = _replaced(marked, lines)
    backwards = {
        (len(marked) - j, len(marked) - i, len(lines) - m, len(lines) - k)
        for i, j, k, m in _replaced(marked[::-1], lines[::-1])
    }
    told = [place for place in forwards if place in backwards]
    found = [(marked[i], lines[k:m]) for i, j, k, m in told if j - i == 1]
    hunks = tuple(Settled(hunk, made) for hunk, made in found if isinstance(hunk, Hunk))
    return hunks, len(forwards) == len(hunks)


def settle(parts: Sequence[Lines | Hunk], known: Iterable[Settled]) -> bytes | None:
    """The file with each hunk resolved as a known one was; None if a hunk has no resolution, or several."""
    precedents = [*known]
    merged: list[bytes] = []
    for part in parts:
        if not isinstance(part, Hunk):
            merged += part
            continue
        found = {lines for one in precedents if (lines := carried(part, one)) is not None}
        if len(found) != 1:
            return None
        merged += found.pop()
    return b"".join(merged)


def carried(hunk: Hunk, known: Settled) -> Lines | None:
    """The lines that result if the hunk is resolved as the known one was; None if that one does not apply."""
    before = known.hunk
    wanted = changes(hunk.base, hunk.theirs)
    settled_change = changes(before.ours, known.lines)
    # The incoming change is the commit picked then, or the commit that resulted from it.
    if not wanted or wanted not in (changes(before.base, before.theirs), settled_change):
        return None
    if not settled_change:  # left out because of the line's content then, so that content must be the same
        return known.lines if hunk.ours == before.ours else None
    result = joined(before.ours, known.lines, hunk.ours)
    # A person who kept both sides then keeps both now; if that gives another result, the hunks differ.
    if known.lines == joined(before.base, before.ours, before.theirs):
        return result if result == joined(hunk.base, hunk.ours, hunk.theirs) else None
    return result


def joined(base: Lines, one: Lines, other: Lines) -> Lines | None:
    """Both changes of `base`, for a conflict that git reports because they are adjacent; None if they meet.

    Also None if equal lines allow two places for a change, that is if matching from the end gives another
    result.
    """
    result = _joined(base, one, other)
    if result is None:
        return None
    backwards = _joined(base[::-1], one[::-1], other[::-1])
    return result if backwards is not None and backwards[::-1] == result else None


def same_change(one: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
    """Whether two pairs of texts differ by the same changes."""
    (a, b), (c, d) = (tuple(map(_lines, pair)) for pair in (one, other))
    return len(a) + len(b) + len(c) + len(d) <= 2 * _TOO_LONG and changes(a, b) == changes(c, d)


def changes(before: Lines, after: Lines) -> tuple[tuple[Lines, Lines], ...]:
    """The removed lines and their replacements, change by change."""
    return tuple((before[edit.start : edit.end], edit.lines) for edit in _edits(before, after))


@dataclass(frozen=True, slots=True)
class _Edit:
    """The lines from `start` to before `end` are replaced by `lines`."""

    start: int
    end: int
    lines: Lines


def _edits(before: Lines, after: Lines) -> list[_Edit]:
    return [_Edit(i, j, after[k:m]) for i, j, k, m in _replaced(before, after)]


def _joined(base: Lines, one: Lines, other: Lines) -> Lines | None:
    mine, yours = _edits(base, one), _edits(base, other)
    if any(a != b and _meet(a, b) for a in mine for b in yours):
        return None
    merged: list[bytes] = []
    at = 0
    for edit in sorted({*mine, *yours}, key=lambda edit: (edit.start, edit.end)):
        merged += base[at : edit.start]
        merged += edit.lines
        at = edit.end
    return (*merged, *base[at:])


def _meet(a: _Edit, b: _Edit) -> bool:
    """Whether two changes affect the same lines, or their order is not known."""
    if a.start < b.end and b.start < a.end:
        return True
    for insertion, edit in ((a, b), (b, a)):
        # The place of an insertion is clear between two lines that stay or are rewritten. It is not clear if
        # one of them is removed, or if the other change inserts at the same place.
        if insertion.start == insertion.end and edit.start <= insertion.start <= edit.end:
            inside = edit.start < insertion.start < edit.end
            if inside or not edit.lines or edit.start == edit.end:
                return True
    return False


def _replaced(before: Sequence[object], after: Sequence[object]) -> list[tuple[int, int, int, int]]:
    """The ranges in which two sequences differ."""
    found = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(i, j, k, m) for what, i, j, k, m in found if what != "equal"]


def _parts(lines: Lines, marks: Sequence[bytes]) -> Iterator[Lines | Hunk]:
    collected: list[list[bytes]] = [[]]  # a text, or the sides of the current hunk
    ours, base, theirs, end = marks
    for line in lines:
        if line.startswith(ours):
            yield tuple(collected[0])
            collected = [[]]
        elif line.startswith((base, theirs)):
            collected.append([])
        elif line.startswith(end):
            mine, common, yours = map(tuple, collected)
            yield Hunk(common, mine, yours)
            collected = [[]]
        else:
            collected[-1].append(line)
    yield tuple(collected[0])


def _lines(text: bytes) -> Lines:
    return tuple(_LINE.findall(text))
