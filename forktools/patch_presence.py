"""Detection of carried changes that are missing at a line's tip, in whole or in part.

A commit can be in a line's history without its change being in the line's files: a revert, a removal under
any other subject, or a merge that keeps one side can undo it or a part of it. Messages are not trusted here.
The carried commits are reverted one after the other from the tip's tree, newest first; if that changes
nothing in a path, the commit's change of that path is gone. After that the single lines are compared, see
`taken_lines`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.commits import AS_RECORDED, changed_paths, tree_changes
from forktools.merge_changes import merge_trees, tree_before
from forktools.removed_lines import Loss, taken_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import git

    from forktools.commits import Change, Commit
    from forktools.release_line import ReleaseLine

_SUBMODULE = b"160000"


def losses(repo: git.Repo, line: ReleaseLine, carried: Collection[str]) -> dict[str, tuple[Loss, ...]]:
    """The losses of each commit of `line` among the ids `carried`; commits without losses are left out."""
    commits = [entry.commit for entry in line.entries]
    changes: dict[str, tuple[Change, ...]] = dict(changed_paths(repo, commits))
    changes |= {entry.commit.sha: entry.own for entry in line.entries if entry.commit.is_merge}
    paths = {sha: {change.path for change in found} for sha, found in changes.items()}
    others: defaultdict[str, list[Commit]] = defaultdict(list)  # by path, the newest first
    suspects: defaultdict[str, list[Commit]] = defaultdict(list)  # carried commits followed by others
    newest: dict[str, Commit] = {}  # by path, of the carried commits
    for commit in reversed(commits):
        for path in paths.get(commit.sha, ()):
            if commit.sha not in carried:
                others[path].append(commit)
            elif not commit.is_merge:
                newest.setdefault(path, commit)
                if path in others:
                    suspects[path].append(commit)
    if not suspects:
        return {}
    mine = [one for one in commits if one.sha in carried and not one.is_merge]
    lost = {
        path: taken_lines(repo, line, path, suspects[path], others[path][::-1]) for path in sorted(suspects)
    }
    gone = _gone(repo, line.tip, mine, paths, suspects)
    gone += [
        (path, newest[path].sha)
        for path, (last, *_) in suspects.items()
        if last is newest[path] and _is_written_over(repo, line.tip, last, path)
    ]
    for path, sha in gone:
        known = lost[path].get(sha, Loss(path, (), 0))
        lost[path][sha] = replace(known, standing=0)
    found: defaultdict[str, list[Loss]] = defaultdict(list)
    for losses_here in lost.values():
        for sha, loss in losses_here.items():
            if loss.lines or not loss.standing:
                found[sha].append(loss)
    return {sha: tuple(all_of_it) for sha, all_of_it in found.items()}


def _gone(
    repo: git.Repo,
    tip: str,
    carried: Sequence[Commit],
    paths: Mapping[str, set[str]],
    suspects: Mapping[str, Sequence[Commit]],
) -> list[tuple[str, str]]:
    """Each path and commit for which reverting the commit changes nothing, for any kind of file."""
    found: list[tuple[str, str]] = []
    tree = f"{tip}^{{tree}}"
    for commit in reversed(carried):
        own = paths.get(commit.sha, set())
        if own.isdisjoint(suspects):
            continue
        without, conflicts = merge_trees(repo, f"{commit.sha}^{{tree}}", tree, tree_before(repo, commit))
        if conflicts:
            continue  # later work has changed the same lines
        touched = {change.path for change in tree_changes(repo, tree, without)}
        here = (
            path for path in own - touched if any(one.sha == commit.sha for one in suspects.get(path, ()))
        )
        found += [(path, commit.sha) for path in here]
        tree = without
    return found


def _is_written_over(repo: git.Repo, tip: str, commit: Commit, path: str) -> bool:
    """Whether a commit changed a path without lines (binary, a submodule) and its content differs now."""
    change = (tree_before(repo, commit), commit.sha, "--", f":(literal){path}")
    modes = isolated_git.ask(repo, "diff-tree", "-r", "--raw", "--no-abbrev", *AS_RECORDED, *change).split()
    if not modes:
        return False
    _, mode, before, own = modes[:4]
    added = isolated_git.ask(repo, "diff-tree", "-r", "--numstat", *AS_RECORDED, *change)
    if before == own or not (mode == _SUBMODULE or added.startswith(b"-")):
        return False
    _, now, _ = isolated_git.run(repo, "rev-parse", "--quiet", "--verify", f"{tip}:{path}")
    return now.strip() != own
