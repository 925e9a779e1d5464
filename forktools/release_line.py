"""Release lines: the commits of vX.Y.Z..release/vcluster/vX.Y.Z, with their kinds and patches."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from forktools.commits import patch_ids, read_range
from forktools.git_repository import (
    RepositoryError,
    branch_tip,
    is_ancestor,
    references,
    require_whole_history,
)
from forktools.merge_changes import merge_changes
from forktools.policy import parse_subject, version_name
from forktools.sanitize import has_visible_text, visible
from forktools.tags import commit_of_upstream_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    import git

    from forktools.commits import Change, Commit

DROP_TRAILER = "Replay-Dropped"
ACCEPT_TRAILER = "Replay-Accepted"
_DROPPED = re.compile(rf"^{DROP_TRAILER}: ([0-9a-f]{{7,64}}) +(\S.*)$", re.MULTILINE)
_ACCEPTED = re.compile(rf"^{ACCEPT_TRAILER}: ([0-9a-f]{{7,64}}) ([0-9a-f]{{40}}) +(\S.*)$", re.MULTILINE)


class CommitKind(enum.StrEnum):
    """The kind of a line's commit under the replay rule."""

    PRODUCT = "product"
    TOOLING = "tooling"
    STRAY = "stray"  # no fork scope: the replay rule does not cover it, and a person has to decide
    RECORD = "record"  # an empty commit that records why another was left out, or accepted as changed


@dataclass(frozen=True, slots=True)
class LineCommit:
    """One commit that a line carries. `patch`, and `lines` (the patch without context), are None for an empty
    commit and for a merge; `own` holds a merge's own changes."""

    commit: Commit
    kind: CommitKind
    patch: str | None
    lines: str | None = None
    own: tuple[Change, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing at all."""
        return self.patch is None and not self.commit.is_merge


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """A release line: everything in base..tip, oldest first, without the merges that change nothing.

    `cut_from_base` is false when the upstream tag is not in the branch's history at all.
    """

    branch: str
    base: str
    tip: str
    cut_from_base: bool
    entries: tuple[LineCommit, ...]
    clean_merges: int

    @property
    def upstream(self) -> str:
        return version_name(self.branch)


def read_line(repo: git.Repo, branch: str, remote: str) -> ReleaseLine:
    """Reads a line. Raises RepositoryError on a shallow clone, or without the branch or upstream's tag."""
    require_whole_history(repo)
    refs = references(repo)
    tip = branch_tip(repo, refs, branch, remote)
    if tip is None:
        raise RepositoryError(
            f"there is no branch {visible(branch)}",
            f"Run `git fetch {visible(remote)}`, or cut it with `forktools replay apply`.",
        )
    return line_at(repo, branch, tip)


def line_at(repo: git.Repo, branch: str, tip: str) -> ReleaseLine:
    """The line with its branch at the commit `tip`."""
    base = commit_of_upstream_tag(repo, references(repo), version_name(branch))
    commits = read_range(repo, [tip], [base])
    if bad := next((commit for commit in commits if commit.malformed), None):
        raise RepositoryError(
            f"{bad.short} on {visible(branch)} is malformed: {bad.malformed}",
            "Write it again with git (`git rebase --force-rebase`): nobody can say what it is.",
        )
    changing = merge_changes(repo, commits)
    carried = tuple(
        replace(entry, own=changing[entry.commit.sha].all) if entry.commit.is_merge else entry
        for entry in entries(repo, [one for one in commits if not one.is_merge or one.sha in changing])
    )
    return ReleaseLine(branch, base, tip, is_ancestor(repo, base, tip), carried, len(commits) - len(carried))


def entries(repo: git.Repo, commits: Sequence[Commit]) -> tuple[LineCommit, ...]:
    """The commits with their patches."""
    patches, lines = patch_ids(repo, commits), patch_ids(repo, commits, context=0)
    return tuple(
        LineCommit(
            commit, _kind(commit, patches.get(commit.sha)), patches.get(commit.sha), lines.get(commit.sha)
        )
        for commit in commits
    )


def read_upstream(repo: git.Repo, old_base: str, new_base: str) -> tuple[LineCommit, ...]:
    """The commits that upstream added from one tag to another."""
    commits = read_range(repo, [new_base], [old_base])
    patches = patch_ids(repo, commits)
    return tuple(LineCommit(commit, CommitKind.STRAY, patches.get(commit.sha)) for commit in commits)


def dropped_reasons(message: str) -> dict[str, str]:
    """The commits that a message records as left out of a replay, with the reasons."""
    return {sha: reason for sha, reason in _DROPPED.findall(message) if has_visible_text(reason)}


def accepted_differences(message: str) -> dict[tuple[str, str], str]:
    """The changed commits that a message accepts, each with the digest of its difference, and the reasons."""
    return {
        (sha, digest): reason
        for sha, digest, reason in _ACCEPTED.findall(message)
        if has_visible_text(reason)
    }


def difference(old: LineCommit, by: Sequence[LineCommit]) -> str:
    """A digest over the patches of an old commit and of those that stand for it, unique to this pair."""
    contents = [entry.patch or entry.commit.sha for entry in (old, *by)]
    return sha256("\n".join(contents).encode()).hexdigest()[:40]


def _kind(commit: Commit, patch: str | None) -> CommitKind:
    text = commit.message
    if patch is None and not commit.is_merge and (dropped_reasons(text) or accepted_differences(text)):
        return CommitKind.RECORD
    subject = parse_subject(commit.subject)
    if subject is None or not subject.is_fork:
        return CommitKind.STRAY
    return CommitKind.PRODUCT if subject.is_product else CommitKind.TOOLING
