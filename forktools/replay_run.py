"""A replay run, which cuts a release line, and the functions that advance it.

A run has its own work tree at a detached HEAD and one JSON file in the git directory, written after every
move. The branch is created last, in one step, so a line exists as a whole or not at all. A killed run is
resumed from the commits in its work tree. A stop for a person is recorded in the file, so that the person's
work is never reset.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forktools import cherry_pick, resolutions
from forktools.commit_matching import unaccepted_difference
from forktools.commits import Commit, read_commit, read_range
from forktools.git_repository import RepositoryError, ask, run
from forktools.policy import version_name
from forktools.release_line import ACCEPT_TRAILER, DROP_TRAILER, dropped_reasons
from forktools.replay_plan import PlannedAction, ReplayPlan
from forktools.sanitize import SUBJECT_LIMIT, decode, encode, visible
from forktools.settings import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import git

    from forktools.commit_matching import CommitFate
    from forktools.resolutions import Conflict, Reuse


DIFFERS = "it does not make the same change"

_TRAILER = re.compile(r"[A-Za-z0-9-]+: |\(cherry picked from commit ")


class RunPhase(enum.StrEnum):
    """The state of a run."""

    RUNNING = "running"
    STOPPED = "stopped"  # waiting for a person
    DONE = "done"
    UNDONE = "undone"  # aborted and removed


@dataclass(frozen=True, slots=True)
class RunStep:
    """One commit to pick, to leave out on record, or to take over by hand."""

    sha: str
    subject: str
    action: PlannedAction
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reused:
    """A commit of the old line whose conflicts were resolved as before, and the commit that resulted (empty
    while other conflicts wait for a person). In the paths of `moved`, lines around a conflict had moved."""

    sha: str
    by: str
    paths: tuple[str, ...]
    moved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """A run. `position` counts the completed moves and `head` is the commit after them. `conflicts` and
    `complaint` give the reason for a stop. `differs` are the commits made for the current one that do not
    make its change. `noted` are the conflicts that wait for a resolution; `reused` were resolved as
    before."""

    branch: str
    base: str
    worktree: str
    head: str
    moves: tuple[RunStep, ...]
    position: int = 0
    phase: RunPhase = RunPhase.RUNNING
    conflicts: tuple[str, ...] = ()
    complaint: str = ""
    differs: tuple[str, ...] = ()
    noted: tuple[Conflict, ...] = ()
    reused: tuple[Reused, ...] = ()

    @property
    def current(self) -> RunStep:
        return self.moves[self.position]


def prepare(repo: git.Repo, plan: ReplayPlan, worktree: Path | None) -> ReplayRun:
    """The run for `plan`; creates nothing yet. `worktree` is next to the repository by default.

    Raises RepositoryError when a stray is undecided, git does not know the committer, or the place is taken.
    """
    if undecided := plan.of(PlannedAction.UNDECIDED):
        shown = ", ".join(step.commit.short for step in undecided[:8])
        raise RepositoryError(
            f"{len(undecided)} of {plan.old.branch} lack the fork scope and wait for a decision: {shown}",
            "--pick ID takes one over, --drop ID=REASON leaves one out on record, --strays pick or "
            "--strays leave settles the rest.",
        )
    status, _, complaint = run(repo, "var", "GIT_COMMITTER_IDENT")
    if status:
        said = complaint.strip().splitlines()[-1]
        raise RepositoryError(f"git does not know who commits: {said}", "Set user.name and user.email.")
    place = (worktree or _beside(repo, plan.branch)).resolve()
    if place.exists():
        raise RepositoryError(f"{place} exists", "Remove it, or name another directory with --worktree.")
    wanted = plan.of(PlannedAction.PICK, PlannedAction.DROP, PlannedAction.BY_HAND)
    moves = tuple(RunStep(s.commit.sha, s.commit.subject, s.action, s.remark) for s in wanted)
    return ReplayRun(plan.branch, plan.base, str(place), plan.base, moves)


def advance(repo: git.Repo, state: ReplayRun, save: Callable[[ReplayRun], None]) -> ReplayRun:
    """Makes moves until a person is needed or the branch is created; `save` is called after each move.

    Raises RepositoryError when git fails, or the branch has been created by another process.
    """
    place = Path(state.worktree)
    if not place.exists():
        # Forced, because a git killed before creating the directory leaves it registered and locked.
        add = ("worktree", "add", "--force", "--force", "--quiet", "--detach", str(place), state.head)
        ask(repo, *cherry_pick.MECHANICAL, *add)
    while state.position < len(state.moves):
        state = _move(repo, place, state)
        save(state)
        if state.phase is RunPhase.STOPPED:
            return state
    name = f"refs/heads/{state.branch}"
    _, found, _ = run(repo, "rev-parse", "--verify", "--quiet", name)
    if decode(found).strip() != state.head:  # equal if the run was killed right after creating the branch
        ask(repo, "update-ref", "-m", "forktools: cut", name, state.head, "0" * len(state.head))
    remove_worktree(repo, state)
    return replace(state, phase=RunPhase.DONE)


def resume(repo: git.Repo, state: ReplayRun, drop: str | None = None, accept: str | None = None) -> ReplayRun:
    """Resumes a run that was killed, or one that stopped and whose conflict a person has resolved.

    `drop` leaves the stopped commit out, for that reason; `accept` records why it may differ from the commit
    it stands for. A run whose commit differs without being accepted stays stopped. Raises RepositoryError
    with the remaining steps when the conflict is not resolved.
    """
    place = Path(state.worktree)
    if state.phase is RunPhase.STOPPED:
        if not place.exists():
            raise RepositoryError(f"the work tree {place} is gone", "Start again: --abort, then apply.")
        return _take_over(repo, place, state, drop, accept)
    if drop is not None or accept is not None:
        raise RepositoryError("no commit waits for a decision", "Use --continue alone.")
    if place.exists() and not _whole(repo, place):  # killed while git created it: it holds no picks
        remove_worktree(repo, state)
    return _recover(repo, place, state) if place.exists() else state


def remove_worktree(repo: git.Repo, state: ReplayRun) -> None:
    """Removes the run's work tree, whatever it contains."""
    listing = ask(repo, "worktree", "list", "--porcelain", "-z").split(b"\0")
    place = Path(state.worktree)
    if b"worktree " + os.fsencode(state.worktree) in listing:
        if _whole(repo, place):
            ask(repo, "worktree", "remove", "--force", "--force", state.worktree)
            return
        run(repo, "worktree", "unlock", state.worktree)  # git does not remove one that it has not finished
        shutil.rmtree(place, ignore_errors=True)
        ask(repo, "worktree", "prune")
    with contextlib.suppress(OSError):
        place.rmdir()  # a git killed while creating the work tree leaves an empty directory


def _whole(repo: git.Repo, place: Path) -> bool:
    """Whether git has finished creating the work tree."""
    if not (place / ".git").exists():
        return False
    return run(repo, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", cwd=place)[0] == 0


def record_message(commit: Commit | RunStep, reason: str) -> str:
    """The message of the empty commit that records why `commit` was left out of a replay."""
    subject = visible(commit.subject, SUBJECT_LIMIT)
    why = visible(" ".join(reason.split()))
    title = f"chore({current().scope}): leave out {commit.sha[:12]}"
    return f"{title}\n\nLeft out: {subject}\n\n{DROP_TRAILER}: {commit.sha} {why}\n"


def _beside(repo: git.Repo, branch: str) -> Path:
    common = Path(decode(ask(repo, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip(b"\n")))
    home = common.parent if common.name == ".git" else common
    return home.with_name(f"{home.name}.{version_name(branch)}")


def _move(repo: git.Repo, place: Path, state: ReplayRun) -> ReplayRun:
    move = state.current
    if move.action is PlannedAction.BY_HAND:
        return replace(state, phase=RunPhase.STOPPED, complaint="a merge's own change cannot be picked")
    if move.action is PlannedAction.DROP:
        message = encode(record_message(move, move.reason))
        sign_off = ("--signoff",) if current().require_sign_off else ()
        _commit(repo, place, "--allow-empty", *sign_off, "-F", "-", stdin=message)
        return _moved(repo, place, state, 1)
    upcoming = state.moves[state.position : state.position + cherry_pick.AT_ONCE]
    others = (index for index, other in enumerate(upcoming) if other.action is not PlannedAction.PICK)
    shas = [other.sha for other in upcoming[: next(others, None)]]
    done, complaint = cherry_pick.pick(repo, place, shas, *cherry_pick.asked())
    if not complaint:
        return _moved(repo, place, state, done)
    if len(shas) > 1:  # retried alone, so that `git cherry-pick --continue` ends with this commit
        cherry_pick.reset(repo, place)
        again, complaint = cherry_pick.pick(repo, place, [shas[done]], *cherry_pick.asked())
        done += again
    state = _moved(repo, place, state, done)
    if not complaint:
        return state
    state = replace(state, phase=RunPhase.STOPPED, complaint=cherry_pick.why(complaint))
    return _settle_as_before(repo, place, state)


def _settle_as_before(repo: git.Repo, place: Path, state: ReplayRun) -> ReplayRun:
    """Resolves conflicts as a person did before; continues if none is left and no new reason is needed."""
    conflicts = cherry_pick.unmerged(repo, place)
    found = resolutions.noted(repo, place, conflicts)
    used = resolutions.reuse(repo, place, conflicts, [*resolutions.kept(repo)])
    left = cherry_pick.unmerged(repo, place)
    moved = tuple(path for path, how in used.items() if how.moved)
    now = Reused(state.current.sha, "", tuple(used), moved)
    stopped = replace(
        state, conflicts=left, noted=found, reused=(*state.reused, now) if used else state.reused
    )
    if left or not used:
        return stopped
    after = _take_over(repo, place, stopped, None, given_reason(used.values()))
    if after.phase is RunPhase.STOPPED:
        return after
    return replace(after, reused=(*state.reused, replace(now, by=after.head)))


def given_reason(used: Iterable[Reuse]) -> str | None:
    """The reason given when the conflicts were first resolved; None if none was needed."""
    return "; ".join(dict.fromkeys(why for one in used for why in one.whys if why)) or None


def _moved(repo: git.Repo, place: Path, state: ReplayRun, count: int) -> ReplayRun:
    return replace(
        state,
        position=state.position + count,
        head=cherry_pick.head(repo, place),
        phase=RunPhase.RUNNING,
        conflicts=(),
        complaint="",
        differs=(),
        noted=(),
    )


def _commit(repo: git.Repo, place: Path, *options: str, stdin: bytes | None = None) -> None:
    words = ("commit", "--quiet", "--no-verify", "--allow-empty-message")
    cherry_pick.act(repo, place, *cherry_pick.asked(), *words, *options, stdin=stdin)


def _recover(repo: git.Repo, place: Path, state: ReplayRun) -> ReplayRun:
    """Takes the position of a killed run from its commits; discards a half-made pick."""
    cherry_pick.unlock(repo, place)
    cherry_pick.reset(repo, place)
    done = 0
    for commit in read_range(repo, [cherry_pick.head(repo, place)], [state.head]):
        move = state.moves[state.position + done]
        if move.sha not in (*commit.picked_from, *dropped_reasons(commit.message)):
            raise RepositoryError(
                f"{commit.short} in {place} is not the run's own",
                "Undo the run with --abort and start again.",
            )
        done += 1
    return _moved(repo, place, state, done)


def _take_over(
    repo: git.Repo, place: Path, state: ReplayRun, drop: str | None, accept: str | None
) -> ReplayRun:
    """Takes over what a person did at the stop: committed, staged, or left the commit out."""
    move = state.current
    if drop is not None:
        cherry_pick.reset(repo, place)
        cherry_pick.act(repo, place, "reset", "--quiet", "--hard", state.head)
        dropped = replace(move, action=PlannedAction.DROP, reason=drop)
        moves = (*state.moves[: state.position], dropped, *state.moves[state.position + 1 :])
        return _moved(repo, place, replace(state, moves=moves), 0)
    if left := cherry_pick.unmerged(repo, place):
        raise RepositoryError(f"still in conflict: {_listed(left)}", f"Edit and `git add` them in {place}.")
    if loose := _paths(repo, place, "diff", "--name-only", "-z"):
        raise RepositoryError(f"changed but not staged: {_listed(loose)}", f"`git add` them in {place}.")
    if cherry_pick.head(repo, place) == state.head:
        _commit_staged(repo, place, move)
    commits = read_range(repo, [cherry_pick.head(repo, place)], [state.head])
    by = [commit for commit in commits if move.sha in commit.picked_from]
    if not by:
        raise RepositoryError(
            f"no commit in {place} names {move.sha}",
            f"Add the line `(cherry picked from commit {move.sha})` to its message (git commit --amend).",
        )
    unaccepted = unaccepted_difference(repo, read_commit(repo, move.sha), by)
    if unaccepted is None:
        resolutions.record(repo, state.noted, cherry_pick.head(repo, place), "")
        return _moved(repo, place, state, 1)
    if accept is None:
        return replace(state, conflicts=(), complaint=DIFFERS, differs=tuple(commit.sha for commit in by))
    trailer = f"{ACCEPT_TRAILER}: {move.sha} {unaccepted} {visible(' '.join(accept.split()))}\n"
    last = read_commit(repo, cherry_pick.head(repo, place))
    message = encode(last.message.rstrip("\n") + "\n" + trailer)
    _commit(repo, place, "--amend", "--allow-empty", "--cleanup=verbatim", "-F", "-", stdin=message)
    resolutions.record(repo, state.noted, cherry_pick.head(repo, place), " ".join(accept.split()))
    return _moved(repo, place, state, 1)


def accept_message(fates: Sequence[CommitFate], reason: str) -> str:
    """The message of the empty commit that records why commits may differ from what stands for them."""
    why = visible(" ".join(reason.split()))
    first = fates[0].entry.commit.short
    title = f"accept {first} as it is" if len(fates) == 1 else f"accept {len(fates)} commits as they are"
    subjects = "".join(f"Accepted: {visible(f.entry.commit.subject, SUBJECT_LIMIT)}\n" for f in fates)
    trailers = "".join(f"{ACCEPT_TRAILER}: {f.entry.commit.sha} {f.difference} {why}\n" for f in fates)
    return f"chore({current().scope}): {title}\n\n{subjects}\n{trailers}"


def _commit_staged(repo: git.Repo, place: Path, move: RunStep) -> None:
    staged = _paths(repo, place, "diff", "--cached", "--name-only", "-z")
    if not staged:
        raise RepositoryError(
            "nothing is staged, so there is nothing to commit",
            "Make the change and `git add` it, or leave the commit out: --continue --drop REASON",
        )
    status, found, _ = run(repo, "diff", "--cached", "--check", cwd=place)
    markers = [line for line in found.splitlines() if line.endswith(b"leftover conflict marker")]
    if status and markers:
        raise RepositoryError(
            f"conflict markers are left: {visible(decode(markers[0]))}",
            f"Edit the files in {place} (if the markers belong there, commit with `git commit --no-edit`).",
        )
    # Not the message that git prepared, because it lists the conflicts in lines that would stay.
    message = encode(with_trailer(read_commit(repo, move.sha).message, move.sha))
    picking_now, _, _ = run(repo, "rev-parse", "--verify", "--quiet", "CHERRY_PICK_HEAD", cwd=place)
    authorship = () if picking_now == 0 else _authorship(repo, move.sha)
    _commit(repo, place, *authorship, "--cleanup=verbatim", "-F", "-", stdin=message)


def with_trailer(message: str, sha: str) -> str:
    """The message as `cherry-pick -x` leaves it: the origin joins a last paragraph of trailers, or is one."""
    body = message.rstrip("\n")
    last = body.rsplit("\n\n", 1)[1].split("\n") if "\n\n" in body else []
    gap = "\n" if last and all(_TRAILER.match(line) for line in last) else "\n\n"
    return f"{body}{gap}(cherry picked from commit {sha})\n"


def _authorship(repo: git.Repo, sha: str) -> tuple[str, ...]:
    shown = decode(ask(repo, "show", "--no-patch", "--format=%an <%ae>%x00%ad", "--date=raw", sha))
    author, date = shown.rstrip("\n").split("\0")
    return f"--author={author}", f"--date={date}"


def _paths(repo: git.Repo, place: Path, *arguments: str) -> tuple[str, ...]:
    return tuple(decode(path) for path in cherry_pick.act(repo, place, *arguments).split(b"\0") if path)


def _listed(paths: tuple[str, ...]) -> str:
    shown = ", ".join(visible(path) for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
