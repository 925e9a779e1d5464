"""Release lines as inventories: what vX.Y.Z..release/vcluster/vX.Y.Z carries, commit by commit."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools.commits import patch_ids, read_range
from forktools.merges import merge_changes
from forktools.policy import LINE_PREFIX, parse_subject
from forktools.repository import (
    RepositoryError,
    branch_tip,
    is_ancestor,
    references,
    require_whole_history,
)
from forktools.tags import upstream_commit
from forktools.text import visible

if TYPE_CHECKING:
    import git

    from forktools.commits import Commit

DROP_TRAILER = "Replay-Dropped"
_DROPPED = re.compile(rf"^{DROP_TRAILER}: ([0-9a-f]{{7,64}}) +(\S.*)$", re.MULTILINE)


class Kind(enum.StrEnum):
    """What a commit of a line is to the replay rule."""

    PRODUCT = "product"
    TOOLING = "tooling"
    STRAY = "stray"  # no fork scope: the rule does not cover it, a person decides
    RECORD = "record"  # an empty commit that says why another was left out


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit a line carries. `patch` is None for an empty commit and for a merge."""

    commit: Commit
    kind: Kind
    patch: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """A release line: everything in base..tip, oldest first, without the merges that change nothing.

    `cut_from_base` is false when the upstream tag is not in the branch's history at all.
    """

    branch: str
    base: str
    tip: str
    cut_from_base: bool
    entries: tuple[Entry, ...]
    clean_merges: int

    @property
    def upstream(self) -> str:
        return self.branch.removeprefix(LINE_PREFIX)


def read_line(repo: git.Repo, branch: str, remote: str) -> Line:
    """Reads a line. Raises RepositoryError on a shallow clone, or without the branch or upstream's tag."""
    require_whole_history(repo)
    refs = references(repo)
    tip = branch_tip(repo, refs, branch, remote)
    if tip is None:
        raise RepositoryError(
            f"there is no branch {visible(branch)}",
            f"Run `git fetch {visible(remote)}`, or cut it with `forktools replay apply`.",
        )
    base = upstream_commit(repo, refs, branch.removeprefix(LINE_PREFIX))
    commits = read_range(repo, [tip], [base])
    changing = merge_changes(repo, commits)
    patches = patch_ids(repo, commits)
    entries = tuple(
        Entry(commit, _kind(commit, patches.get(commit.sha)), patches.get(commit.sha))
        for commit in commits
        if not commit.is_merge or commit.sha in changing
    )
    return Line(branch, base, tip, is_ancestor(repo, base, tip), entries, len(commits) - len(entries))


def read_upstream(repo: git.Repo, old_base: str, new_base: str) -> tuple[Entry, ...]:
    """What upstream added from one tag to another."""
    commits = read_range(repo, [new_base], [old_base])
    patches = patch_ids(repo, commits)
    return tuple(Entry(commit, Kind.STRAY, patches.get(commit.sha)) for commit in commits)


def dropped_reasons(message: str) -> dict[str, str]:
    """The commits a message says were left out of a replay, and why."""
    return dict(_DROPPED.findall(message))


def _kind(commit: Commit, patch: str | None) -> Kind:
    if patch is None and not commit.is_merge and dropped_reasons(commit.message):
        return Kind.RECORD
    subject = parse_subject(commit.subject)
    if subject is None or not subject.is_fork:
        return Kind.STRAY
    return Kind.PRODUCT if subject.is_product else Kind.TOOLING
