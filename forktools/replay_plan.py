"""The plan of a replay: what cutting a line would do with each commit."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import git

from forktools import cherry_pick, resolutions
from forktools.commit_matching import MatchState, compare, trace, unaccepted_difference
from forktools.commits import read_commit
from forktools.git_repository import RepositoryError, branch_tip, references
from forktools.policy import version_name
from forktools.release_line import CommitKind, ReleaseLine, read_upstream
from forktools.remembered_release_lines import previous_line, recall
from forktools.sanitize import visible
from forktools.tags import commit_of_upstream_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from forktools.commits import Commit
    from forktools.resolutions import Resolution


class PlannedAction(enum.StrEnum):
    """The action for a commit of the old line."""

    PICK = "pick"
    DROP = "drop"  # left out, with a recorded reason
    UPSTREAM = "in upstream"  # left out: the new base has it
    LEAVE = "leave"  # a stray, left out
    UNDECIDED = "undecided"  # a stray that awaits a decision
    BY_HAND = "by hand"  # a merge's own change: there is no patch to pick


class Strays(enum.StrEnum):
    """The treatment of commits that lack the fork scope."""

    ASK = "ask"
    PICK = "pick"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """One commit, its action and the reason; `conflicts` are the paths that a trial could not merge.

    `stops` says whether its pick stopped for a person in the trial.
    """

    commit: Commit
    kind: CommitKind
    action: PlannedAction
    remark: str = ""
    conflicts: tuple[str, ...] = ()
    stops: bool = False


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A plan to cut `branch` at the commit `base` from the commits of `old`."""

    old: ReleaseLine
    branch: str
    base: str
    steps: tuple[PlannedCommit, ...]

    def of(self, *actions: PlannedAction) -> tuple[PlannedCommit, ...]:
        """The steps with one of `actions`, in order."""
        return tuple(step for step in self.steps if step.action in actions)


def make_plan(
    repo: git.Repo,
    old: ReleaseLine,
    branch: str,
    remote: str,
    *,
    strays: Strays = Strays.ASK,
    picked: Sequence[str] = (),
    dropped: Mapping[str, str] | None = None,
) -> ReplayPlan:
    """Decides the action for every commit of `old`; `picked` and the keys of `dropped` are ids, abbreviated
    or not.

    Raises RepositoryError when the line is already there, the upstream tag is not, or an id names no commit
    of the old line.
    """
    refs = references(repo)
    if branch_tip(repo, refs, branch, remote) is not None:
        raise RepositoryError(
            f"{branch} exists already",
            f"See what it lacks: forktools replay status --from {old.branch} --to {branch}",
        )
    base = commit_of_upstream_tag(repo, refs, version_name(branch))
    reasons = {_own(old, name): reason for name, reason in (dropped or {}).items()}
    wanted = {_own(old, name) for name in picked}
    steps = []
    for fate in trace(old.entries, (), read_upstream(repo, old.base, base)):
        commit, kind = fate.entry.commit, fate.entry.kind
        action, remark = PlannedAction.PICK, fate.remark
        if commit.sha in reasons:
            action, remark = PlannedAction.DROP, reasons[commit.sha]
        elif fate.state is MatchState.UPSTREAM and fate.remark:  # its patch differs, so it needs a record
            action, remark = (
                PlannedAction.DROP,
                f"in upstream as {fate.by[0].short}, from which it was picked",
            )
        elif fate.state is MatchState.UPSTREAM:
            action, remark = PlannedAction.UPSTREAM, f"as {fate.by[0].short}"
        elif kind is CommitKind.STRAY and commit.sha not in wanted and strays is not Strays.PICK:
            action = PlannedAction.LEAVE if strays is Strays.LEAVE else PlannedAction.UNDECIDED
        elif commit.is_merge:
            action = PlannedAction.BY_HAND
        steps.append(PlannedCommit(commit, kind, action, remark))
    return ReplayPlan(old, branch, base, tuple(steps))


def precedents(repo: git.Repo, old: ReleaseLine, remote: str) -> list[Resolution]:
    """Earlier resolutions: recorded ones, and those made in `old` when it was cut from the line before."""
    known = [*resolutions.kept(repo)]
    try:
        before = previous_line(repo, references(repo), old.branch, remote)
        found = compare(repo, recall(repo, before, remote).owed, old) if before else None
    except RepositoryError:
        return known  # an unreadable line has no precedents; the gates report it
    patches = {entry.commit.sha: entry.patch for entry in old.entries}
    pairs = [
        (fate.entry.commit, fate.by[0], fate.remark if fate.state is MatchState.ACCEPTED else "")
        for fate in (found.fates if found else ())
        if len(fate.by) == 1
        and fate.state in (MatchState.SAME, MatchState.TRAILER, MatchState.ACCEPTED, MatchState.UNRECORDED)
        and fate.entry.patch != patches.get(fate.by[0].sha)
    ]
    return [*known, *resolutions.learned(repo, pairs)]


def try_out(
    repo: git.Repo, plan: ReplayPlan, known: Sequence[Resolution], progress: Callable[[int], None]
) -> ReplayPlan:
    """The plan with the conflicts that its picks would meet and that earlier resolutions do not settle.
    `progress` is called with the number of picks tried."""

    def settle(place: Path, sha: str, conflicts: Sequence[str]) -> str | None:
        """The reason why the pick still stops, or "" if it does not; None if its conflicts are not known."""
        used = resolutions.reuse(repo, place, conflicts, known)
        if len(used) < len(conflicts):
            return None
        cherry_pick.commit(repo, place)
        trial = git.Repo(place)
        by = read_commit(trial, cherry_pick.head(repo, place))
        whys = any(why for one in used.values() for why in one.whys)
        if whys or unaccepted_difference(trial, read_commit(trial, sha), [by]) is None:
            return ""
        return "settled as before, and to be accepted"

    tried: dict[str, tuple[tuple[str, ...], str]] = {}
    shas = [step.commit.sha for step in plan.of(PlannedAction.PICK)]
    for number, (sha, conflicts, why) in enumerate(cherry_pick.trial(repo, plan.base, shas, settle), 1):
        if why or conflicts:
            tried[sha] = (conflicts, why)
        progress(number)
    steps = tuple(
        replace(step, conflicts=found[0], remark=found[1] or "settled as before", stops=bool(found[1]))
        if (found := tried.get(step.commit.sha))
        else step
        for step in plan.steps
    )
    return replace(plan, steps=steps)


def _own(line: ReleaseLine, name: str) -> str:
    shas = [entry.commit.sha for entry in line.entries]
    found = [sha for sha in shas if len(name) >= 4 and sha.startswith(name.lower())]
    if len(found) != 1:
        what = "several commits" if found else "no commit"
        raise RepositoryError(
            f"{visible(name)} is {what} of {line.branch}",
            f"Take the id from `forktools replay inventory {line.branch}`.",
        )
    return found[0]
