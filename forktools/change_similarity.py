"""Comparison of commits by the change they make, for commits whose patches differ.

A patch depends on the lines around it, so a commit that git cherry-picks onto another base can get another
patch-id. Messages are not trusted here: picking the old commits onto the new one's parent (or the new ones
onto the old one's parent) must give the same tree.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.commits import AS_RECORDED
from forktools.merge_changes import merge_trees, tree_before
from forktools.patch_hunks import parse

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import git

    from forktools.commits import Commit

_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def same_change(repo: git.Repo, olds: Sequence[Commit], news: Sequence[Commit]) -> bool:
    """Whether `news` make the changes of `olds`: one for one, one for the sum of many, many for one."""
    if len(news) == 1 and _picked(repo, tree_before(repo, news[0]), olds) == _tree(repo, news[0]):
        return True
    return len(olds) == 1 and _picked(repo, tree_before(repo, olds[0]), news) == _tree(repo, olds[0])


def ambiguous(repo: git.Repo, commits: Sequence[Commit]) -> set[str]:
    """The ids of those commits whose changed lines, with the lines around them, occur twice in a file.

    The same change at the other place has the same patch-id.
    """
    stdin = "".join(f"{commit.sha}\n" for commit in commits if not commit.is_merge).encode()
    if not stdin:
        return set()
    options = ("-p", "-U3", "--full-index", *AS_RECORDED)
    shown = isolated_git.ask(repo, "diff-tree", "--stdin", "--root", "-r", *options, stdin=stdin)
    found = [hunk for hunk in parse(shown) if hunk.before]
    blobs = _blobs(repo, {hunk.blob for hunk in found})
    return {
        hunk.commit
        for hunk in found
        if hunk.blob in blobs and _is_twice(b"\n".join(hunk.before) + b"\n", blobs[hunk.blob])
    }


def _is_twice(lines: bytes, text: bytes) -> bool:
    text = b"\n" + text
    first = text.find(b"\n" + lines)
    return text.find(b"\n" + lines, first + 1) != -1


def _blobs(repo: git.Repo, wanted: Collection[bytes]) -> dict[bytes, bytes]:
    stdin = b"".join(blob + b"\n" for blob in sorted(wanted))
    batch = isolated_git.ask(repo, "cat-file", "--batch", stdin=stdin) if wanted else b""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(batch):
        end = batch.index(b"\n", at)
        name, kind, *size = batch[at:end].split(b" ")
        at = end + 1
        if size:
            if kind == b"blob":
                found[name] = batch[at : at + int(size[0])]
            at += int(size[0]) + 1
    return found


def same_place(repo: git.Repo, old: Commit, new: Commit) -> bool:
    """Whether two commits of the same lines change them at the same place of their files."""
    before_old, before_new = tree_before(repo, old), tree_before(repo, new)
    olds, news = (
        _hunks(repo, before_old, f"{old.sha}^{{tree}}"),
        _hunks(repo, before_new, f"{new.sha}^{{tree}}"),
    )
    moved = _hunks(repo, before_old, before_new)
    if olds.keys() != news.keys():
        return False
    return all(
        len(olds[path]) == len(news[path])
        and all(_there(a, b, moved.get(path, [])) for a, b in zip(olds[path], news[path], strict=True))
        for path in olds
    )


Hunk = tuple[int, int, int, int]  # first old line, old count, first new line, new count, as in `diff -U0`


def _there(old: Hunk, new: Hunk, moved: Sequence[Hunk]) -> bool:
    """Whether a change made at `old` belongs at `new`, when the files before them differ by `moved`."""
    start, count = old[:2]
    if count:
        return all(_carried(start + n, moved) == new[0] + n for n in range(count))
    return _carried(start, moved) == new[0] or _carried(start + 1, moved) == new[0] + 1


def _carried(line: int, moved: Sequence[Hunk]) -> int | None:
    """The number of an unchanged line in the other file; line 0 is the start of the file."""
    if line == 0:
        return 0
    # An insertion after line n is `-n,0`: it moves the lines from n + 1 on.
    starts = [start + (count == 0) for start, count, _, _ in moved]
    index = bisect_right(starts, line) - 1
    if index < 0:
        return line
    start, count, to, length = moved[index]
    if count and line < start + count:
        return None
    return line + (to + (length == 0) + length) - (start + (count == 0) + count)


def _hunks(repo: git.Repo, old: str, new: str) -> dict[bytes, list[Hunk]]:
    """The hunks of each text file in which two trees differ, by the header line that names the file."""
    shown = isolated_git.ask(repo, "diff-tree", "-r", "-p", "-U0", *AS_RECORDED, old, new)
    found: dict[bytes, list[Hunk]] = {}
    place: list[Hunk] = []
    left = 0  # lines left of the current hunk, because a line of a file can look like a header
    for line in shown.split(b"\n"):
        if left:
            left -= not line.startswith(b"\\")
        elif line.startswith(b"diff --git "):
            place = found.setdefault(line, [])
        elif match := _HUNK.match(line):
            start, count, to, length = (1 if part is None else int(part) for part in match.groups())
            place.append((start, count, to, length))
            left = count + length
    return found


def _picked(repo: git.Repo, tree: str, commits: Sequence[Commit]) -> str | None:
    """The tree that results from picking `commits` onto `tree`; None at a conflict."""
    for commit in commits:
        merged, conflicts = merge_trees(repo, tree_before(repo, commit), tree, f"{commit.sha}^{{tree}}")
        if conflicts:
            return None
        tree = merged
    return tree


def _tree(repo: git.Repo, commit: Commit) -> str:
    return isolated_git.ask(repo, "rev-parse", f"{commit.sha}^{{tree}}").decode().strip()
