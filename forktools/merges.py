"""What a merge commit itself changes: its tree against the tree git makes of its parents on its own.

A merge that only joins its parents changes nothing. Anything else in it (an "evil merge") was typed by hand
and appears in no other commit: a file only the merge touches, a conflict's resolution, one side's work
thrown away.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.commits import AS_RECORDED, Change, parse_raw_changes
from forktools.repository import RepositoryError, ask, run
from forktools.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    import git

    from forktools.commits import Commit

# A rename is followed as git does by default, whatever the user's configuration says.
_AS_GIT_DEFAULTS = ("-c", "merge.renames=true", "-c", "merge.directoryRenames=conflict")
_SOMEONE = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "forktools"), ("EMAIL", "forktools"), ("DATE", "@0 +0000"))
}


@dataclass(frozen=True, slots=True)
class MergeChange:
    """A merge's own changes: where git had a conflict to resolve, and where nothing called for a change."""

    resolved: tuple[Change, ...]
    unprompted: tuple[Change, ...]

    @property
    def all(self) -> tuple[Change, ...]:
        return self.unprompted + self.resolved


def merge_changes(repo: git.Repo, commits: Iterable[Commit]) -> dict[str, MergeChange]:
    """The own changes of every merge among `commits` that has any, by id."""
    merges = [commit for commit in commits if commit.is_merge]
    if not merges:
        return {}
    found: dict[str, MergeChange] = {}
    with tempfile.TemporaryDirectory(prefix="forktools-") as scratch:
        environment = _scratch_objects(repo, Path(scratch))
        suspects = _remerged(repo, [merge for merge in merges if len(merge.parents) == 2], environment)
        suspects += [merge for merge in merges if len(merge.parents) > 2]
        for merge in suspects:
            change = _own_change(repo, merge, environment)
            if change.all:
                found[merge.sha] = change
    return found


def _remerged(repo: git.Repo, merges: list[Commit], environment: dict[str, str]) -> list[Commit]:
    """Those of the two-parent merges whose tree is not what git makes of the parents, in one call for all.

    `merges` come parents first; git is asked about children first, because `git log` forgets the parents of
    each commit it has shown, and would find wrong merge bases for what descends from it.
    """
    if not merges:
        return []
    raw = ask(
        repo,
        *_AS_GIT_DEFAULTS,
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
        environment=environment,
    )
    changed = parse_raw_changes(raw)
    return [merge for merge in merges if merge.sha in changed]


def _scratch_objects(repo: git.Repo, scratch: Path) -> dict[str, str]:
    """An environment in which new objects go to `scratch` and the repository is only read."""
    objects = ask(repo, "rev-parse", "--path-format=absolute", "--git-path", "objects").rstrip(b"\n")
    return _SOMEONE | {
        "GIT_OBJECT_DIRECTORY": str(scratch),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted_path(decode(objects)),
    }


def _quoted_path(path: str) -> str:
    """One entry of GIT_ALTERNATE_OBJECT_DIRECTORIES, which splits at colons unless an entry is C-quoted."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _own_change(repo: git.Repo, merge: Commit, environment: dict[str, str]) -> MergeChange:
    """Merges the parents one after the other, as `git merge` does with more than two, and compares."""
    joined, *others = merge.parents
    conflicts: set[str] = set()
    tree = ""
    for position, other in enumerate(others):
        if position:  # merge-tree wants commits; the scratch objects vanish with the comparison
            joined = (
                ask(repo, "commit-tree", tree, "-p", joined, "-p", merge.parents[position], "-m", "joined",
                    environment=environment)
                .decode()
                .strip()
            )  # fmt: skip
        status, output, complaint = run(
            repo, *_AS_GIT_DEFAULTS, "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages",
            "--allow-unrelated-histories", joined, other, environment=environment,
        )  # fmt: skip
        if status > 1:
            raise RepositoryError(f"git could not redo the merge {merge.short}: {complaint.strip()}")
        first, *paths = output.split(b"\0")
        tree = first.decode()
        conflicts.update(decode(path) for path in paths if path)
    raw = ask(repo, "diff-tree", "-r", "-z", "--raw", *AS_RECORDED, tree, f"{merge.sha}^{{tree}}",
              environment=environment)  # fmt: skip
    changes = parse_raw_changes(b"-\0" + raw).get("-", ())
    return MergeChange(
        tuple(change for change in changes if change.path in conflicts),
        tuple(change for change in changes if change.path not in conflicts),
    )
