"""Changes made by a merge commit itself: its tree compared with the tree that git's own merge gives.

A merge that only joins its parents changes nothing. Anything else in it (an "evil merge") was edited by hand
and appears in no other commit: a file only the merge touches, a conflict's resolution, one side's work
thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.commits import AS_RECORDED, Change, parse_raw_changes, tree_changes
from forktools.git_repository import RepositoryError
from forktools.sanitize import decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    import git

    from forktools.commits import Commit


@dataclass(frozen=True, slots=True)
class MergeChange:
    """A merge's own changes: those where git had a conflict to resolve, and those without a conflict."""

    resolved: tuple[Change, ...]
    unprompted: tuple[Change, ...]

    @property
    def all(self) -> tuple[Change, ...]:
        return self.unprompted + self.resolved


def merge_changes(repo: git.Repo, commits: Iterable[Commit]) -> dict[str, MergeChange]:
    """The own changes of each merge among `commits`, by id; merges without any are left out."""
    merges = [commit for commit in commits if commit.is_merge]
    if not merges:
        return {}
    found: dict[str, MergeChange] = {}
    suspects = _remerged(repo, [merge for merge in merges if len(merge.parents) == 2])
    suspects += [merge for merge in merges if len(merge.parents) > 2]
    for merge in suspects:
        change = _own_change(repo, merge)
        if change.all:
            found[merge.sha] = change
    return found


def _remerged(repo: git.Repo, merges: list[Commit]) -> list[Commit]:
    """The two-parent merges whose tree differs from git's merge of the parents, found in one git call.

    `merges` come parents first, and git reads children first. Otherwise `git log` would find wrong merge
    bases for a descendant, because it forgets the parents of each commit it has shown.
    """
    if not merges:
        return []
    raw = isolated_git.ask(
        repo,
        "log",
        "--stdin",
        "--no-walk=unsorted",
        "--remerge-diff",
        "--raw",
        "-r",
        "-z",
        "--format=%H",
        *AS_RECORDED,
        stdin="".join(f"{merge.sha}\n" for merge in reversed(merges)).encode(),
    )
    changed = parse_raw_changes(raw)
    return [merge for merge in merges if merge.sha in changed]


def tree_before(repo: git.Repo, commit: Commit) -> str:
    """The tree that a commit changes: its parent's, or git's automatic merge of its parents."""
    if commit.is_merge:
        return _joined(repo, commit)[0]
    return f"{commit.parents[0]}^{{tree}}" if commit.parents else _empty_tree(repo)


def before_merge(repo: git.Repo, merge: Commit) -> str:
    """A commit with the tree that a merge changes and with its parents, so that `git blame` can run on it."""
    return _commit(repo, tree_before(repo, merge), *merge.parents)


def merge_trees(repo: git.Repo, base: str, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """The merge of two trees that come from `base`, and the paths in conflict."""
    root = _commit(repo, base)  # merge-tree needs commits; the scratch objects are temporary
    return _merged(repo, _commit(repo, ours, root), _commit(repo, theirs, root))


def _own_change(repo: git.Repo, merge: Commit) -> MergeChange:
    tree, conflicts = _joined(repo, merge)
    changes = tree_changes(repo, tree, f"{merge.sha}^{{tree}}")
    return MergeChange(
        tuple(change for change in changes if change.path in conflicts),
        tuple(change for change in changes if change.path not in conflicts),
    )


def _joined(repo: git.Repo, merge: Commit) -> tuple[str, set[str]]:
    """Merges the parents one after the other, as `git merge` does with more than two."""
    joined, *others = merge.parents
    conflicts: set[str] = set()
    tree = ""
    for position, other in enumerate(others):
        if position:
            joined = _commit(repo, tree, joined, merge.parents[position])
        tree, found = _merged(repo, joined, other)
        conflicts.update(found)
    return tree, conflicts


def _merged(repo: git.Repo, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    status, output, complaint = isolated_git.run(
        repo, "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages",
        "--allow-unrelated-histories", ours, theirs,
    )  # fmt: skip
    if status > 1:
        raise RepositoryError(f"git could not merge {ours[:12]} and {theirs[:12]}: {complaint.strip()}")
    tree, *paths = output.split(b"\0")
    return tree.decode().strip(), tuple(decode(path) for path in paths if path)


def _empty_tree(repo: git.Repo) -> str:
    return isolated_git.ask(repo, "mktree", stdin=b"").decode().strip()


def _commit(repo: git.Repo, tree: str, *parents: str) -> str:
    """A temporary commit."""
    named = [word for parent in parents for word in ("-p", parent)]
    return isolated_git.ask(repo, "commit-tree", tree, *named, "-m", "forktools").decode().strip()
