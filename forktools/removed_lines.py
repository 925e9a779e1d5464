"""Lines of carried commits that later commits removed, file by file.

`git blame` identifies the commit of each removed line. A line counts as taken if the later commit writes
nothing in its place, or restores the text from before the carried commit. A replaced line does not count,
because that is ordinary further work. A line that another commit has restored, or that only moved within its
file, is not gone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.commits import AS_RECORDED
from forktools.merge_changes import before_merge, tree_before
from forktools.patch_hunks import parse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import git

    from forktools.commits import Commit
    from forktools.patch_hunks import PatchHunk
    from forktools.release_line import ReleaseLine

_WORD = re.compile(rb"[\w\x80-\xff]")  # a line without one, such as `}`, belongs to no commit


@dataclass(frozen=True, slots=True)
class Taking:
    """The effect of the commit `by` on the lines that another commit added to or removed from one file: the
    numbers of added lines removed, of lines taken, and of lines that `by` itself writes in that file."""

    by: Commit
    removed: int
    taken: int
    written: int


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss in a commit's change of a file, and how much of the change stands: the added lines that are
    still there or, for a commit that only removed lines, the removed lines that are still absent."""

    path: str
    takings: tuple[Taking, ...]
    standing: int

    @property
    def lines(self) -> int:
        """How many lines were taken."""
        return sum(one.taken for one in self.takings)

    @property
    def is_undone(self) -> bool:
        """Whether this is more than ordinary work on the same lines: nothing stands, or less stands than is
        gone, or a commit took more than two lines for each that it wrote."""
        removed = sum(one.removed for one in self.takings)
        at_once = any(one.taken > 2 * one.written for one in self.takings)
        return not self.standing or at_once or (self.lines > 0 and removed > self.standing)


def taken_lines(
    repo: git.Repo, line: ReleaseLine, path: str, carried: Collection[Commit], others: Sequence[Commit]
) -> dict[str, Loss]:
    """The losses of `carried` commits in `path` to `others` (commits of the line that are not carried), by
    the id of the carried commit; those without losses are left out."""
    hunks = _changes(repo, path, [*carried, *others])
    tip = Counter(_lines(repo, line.tip, path))
    found: defaultdict[str, list[Taking]] = defaultdict(list)
    dropped = {one.sha: [_worded(hunk.before) for hunk in hunks[one.sha]] for one in carried}
    for other in others:
        parent = before_merge(repo, other) if other.is_merge else next(iter(other.parents), "")
        removes = any(hunk.before for hunk in hunks[other.sha])
        if not parent or not (removes or any(dropped.values())):
            continue  # it only adds lines, and none that were removed before
        before = Counter(_lines(repo, parent, path))
        owners = _owners(repo, line.base, parent, path) if removes else []
        for sha, (removed, taken, written) in _weigh(hunks[other.sha], owners, dropped, before, tip).items():
            if sha in dropped and removed + taken:
                found[sha].append(Taking(other, removed, taken, written))
    return {sha: Loss(path, tuple(takings), _standing(hunks[sha], tip)) for sha, takings in found.items()}


def _standing(hunks: Sequence[PatchHunk], tip: Counter[bytes]) -> int:
    """See `Loss.standing`."""
    added = Counter(text for hunk in hunks for text in _worded(hunk.after))
    removed = Counter(text for hunk in hunks for text in _worded(hunk.before))
    return ((added & tip) if added else (removed - tip)).total()


def _weigh(
    hunks: Sequence[PatchHunk],
    owners: Sequence[str],
    dropped: dict[str, list[list[bytes]]],
    before: Counter[bytes],
    tip: Counter[bytes],
) -> dict[str, tuple[int, int, int]]:
    """The effect of one commit's hunks in a file on each owner: lines removed, taken, written in place."""
    moved = {text for hunk in hunks for text in _worded(hunk.before)}
    removed: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    written = 0
    for hunk in hunks:
        new = _worded(hunk.after)
        back = [sha for sha, olds in dropped.items() if new and any(_within(new, old) for old in olds)]
        own = 0 if back else sum(text not in moved for text in new)
        written += own
        restored = sum(tip[text] > before[text] for text in new)
        taken.update(dict.fromkeys(back, restored))
        lost = Counter(
            owners[number]
            for number, text in enumerate(hunk.before, hunk.start - 1)
            if number < len(owners) and _WORD.search(text) and tip[text] < before[text]
        )
        removed.update(lost)
        taken.update({sha: max(0, count - own) for sha, count in lost.items()})
    return {sha: (removed[sha], taken[sha], written) for sha in removed.keys() | taken.keys()}


def _owners(repo: git.Repo, base: str, commit: str, path: str) -> list[str]:
    """The commit id of each line of a file; a line from before `base` gets a text that matches no id.

    A submodule has a line in a patch, but none here.
    """
    arguments = ("-l", "-s", f"^{base}", commit, "--", path)
    status, shown, _ = isolated_git.run(repo, "blame", *arguments)
    return [line.split(b" ", 1)[0].decode() for line in shown.split(b"\n")[:-1]] if status == 0 else []


def _worded(lines: Iterable[bytes]) -> list[bytes]:
    return [line for line in lines if _WORD.search(line)]


def _within(part: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    length = len(part)
    return any(whole[n : n + length] == part for n in range(len(whole) - length + 1))


def _changes(repo: git.Repo, path: str, commits: Iterable[Commit]) -> defaultdict[str, list[PatchHunk]]:
    """The hunks of each commit in a file, without context."""
    shown = ("-r", "-p", "-U0", *AS_RECORDED)
    place = ("--", f":(literal){path}")
    found: defaultdict[str, list[PatchHunk]] = defaultdict(list)
    plain = "".join(f"{commit.sha}\n" for commit in commits if not commit.is_merge).encode()
    for hunk in parse(isolated_git.ask(repo, "diff-tree", "--stdin", "--root", *shown, *place, stdin=plain)):
        found[hunk.commit].append(hunk)
    for merge in (commit for commit in commits if commit.is_merge):
        trees = tree_before(repo, merge), merge.sha
        found[merge.sha] = [*parse(isolated_git.ask(repo, "diff-tree", *shown, *trees, *place))]
    return found


def _lines(repo: git.Repo, commit: str, path: str) -> list[bytes]:
    status, text, _ = isolated_git.run(repo, "cat-file", "blob", f"{commit}:{path}")
    return text.split(b"\n") if status == 0 else []
