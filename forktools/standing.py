"""Whether what a line carries is still there at its tip.

A commit can be in a line's history and its work not in the line: taken back by a revert, by a removal under
any other subject, by a merge that keeps one side. No message is believed here. The carried commits are taken
back one after the other from the tip's tree, newest first; a path on which that changes nothing does not hold
the commit's change any more. Where it conflicts, later work has changed the same lines: then it stands as
long as a line that it added is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forktools import clean_room
from forktools.commits import AS_RECORDED, changed_paths, tree_changes
from forktools.merges import merge_trees, tree_before

if TYPE_CHECKING:
    from collections.abc import Collection

    import git

    from forktools.commits import Change, Commit
    from forktools.lines import Line


def undone_paths(repo: git.Repo, line: Line, carried: Collection[str]) -> dict[str, tuple[str, ...]]:
    """For each commit of `line` among the ids `carried`: its paths whose change is gone.

    Commits whose change stands are left out.
    """
    commits = [entry.commit for entry in line.entries]
    changes: dict[str, tuple[Change, ...]] = dict(changed_paths(repo, commits))
    changes |= {entry.commit.sha: entry.own for entry in line.entries if entry.commit.is_merge}
    paths = {sha: {change.path for change in found} for sha, found in changes.items()}
    doubtful: dict[str, dict[str, Commit]] = {}
    later: dict[str, Commit] = {}  # by path, the next commit to change it that is not carried itself
    for commit in reversed(commits):
        own = paths.get(commit.sha, set())
        if commit.sha not in carried or commit.is_merge:
            later |= dict.fromkeys(own, commit)
        elif shared := {path: later[path] for path in own if path in later}:
            doubtful[commit.sha] = shared
    if not doubtful:
        return {}
    suspects = set().union(*doubtful.values())
    gone: dict[str, tuple[str, ...]] = {}
    tree = f"{line.tip}^{{tree}}"
    for commit in reversed(commits):
        if commit.sha not in carried or commit.is_merge or not paths.get(commit.sha, set()) & suspects:
            continue
        without, touched = _taken_back(repo, tree, commit)
        found = doubtful.get(commit.sha, {})
        if without is None:
            lost = {path for path in found if _all_replaced(repo, line.tip, commit, path, found[path])}
        else:
            tree, lost = without, found.keys() - touched
        if lost:
            gone[commit.sha] = tuple(sorted(lost))
    return gone


def _all_replaced(repo: git.Repo, tip: str, commit: Commit, path: str, other: Commit) -> bool:
    """Whether no line that the commit added to a file is in it at the tip, though one was before `other`."""
    trees = tree_before(repo, commit), commit.sha
    shown = clean_room.ask(repo, "diff-tree", "-p", "-U0", *AS_RECORDED, *trees, "--", f":(literal){path}")
    _, _, hunks = shown.partition(b"\n@@ ")
    added = {line[1:] for line in hunks.split(b"\n") if line.startswith(b"+") and line[1:].strip()}
    before, now = (_lines(repo, tree, path) for tree in (tree_before(repo, other), tip))
    return not added.isdisjoint(before) and added.isdisjoint(now)


def _lines(repo: git.Repo, tree: str, path: str) -> list[bytes]:
    tree_id = clean_room.ask(repo, "rev-parse", tree).decode().strip()
    status, text, _ = clean_room.run(repo, "cat-file", "blob", f"{tree_id}:{path}")
    return text.split(b"\n") if status == 0 else []


def _taken_back(repo: git.Repo, tree: str, commit: Commit) -> tuple[str | None, set[str]]:
    """The tree without the change, and the paths that differ then; None where later work is in the way."""
    without, conflicts = merge_trees(repo, f"{commit.sha}^{{tree}}", tree, tree_before(repo, commit))
    if conflicts:
        return None, set()
    return without, {change.path for change in tree_changes(repo, tree, without)}
