"""Matching the commits of one release line to those of another.

The replay rule: a new line carries every fork commit of the line before it. This module decides whether it
does, from the strongest evidence to the weakest: the same patch, the same lines at the same place, a
`cherry picked from` trailer, the same patch in upstream's own history, a recorded reason for leaving it out,
and last the same subject. A trailer or a subject only identifies the commit: that commit must also make the
same change, or its difference must have been accepted on record. An empty commit carries nothing, whatever it
names. A carried change must still be there at the tip.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forktools.change_similarity import ambiguous, same_change, same_place
from forktools.commits import read_range
from forktools.git_repository import run
from forktools.patch_presence import losses
from forktools.policy import Finding, Level, Rule
from forktools.release_line import (
    CommitKind,
    LineCommit,
    ReleaseLine,
    accepted_differences,
    difference,
    dropped_reasons,
    entries,
    read_upstream,
)
from forktools.settings import current
from forktools.tags import LINE_NOT_FROM_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import git

    from forktools.commits import Commit
    from forktools.removed_lines import Loss

COMMIT_MISSING = Rule(
    "replay-missing",
    "A new line carries every fork commit of the line before it.",
    "Cherry-pick it with -x in a pull request into the new line, or record why it is left out "
    "(`forktools replay drop`).",
)
COMMIT_REVERTED = Rule(
    "replay-reverted",
    "A replayed commit stays in the new line, whole.",
    "Bring it back, or record why the commit is left out (`forktools replay drop`).",
)
COMMIT_CHANGED = Rule(
    "replay-changed",
    "A commit stands for another if it makes the same change, or if its difference was accepted on record.",
    "Read the range-diff (`forktools replay status`); then pick it again with -x, or accept it as it is "
    "(`forktools replay accept`).",
)
COMMIT_UNRECORDED = Rule(
    "replay-unrecorded",
    "Lines cut before changes were accepted on record are taken as they were released.",
    "Nothing; the range-diff shows the change (`forktools replay status`).",
    Level.WARNING,
)
COMMIT_THINNER = Rule(
    "replay-thinner",
    "A later commit of the new line has taken lines of a replayed one, and written others.",
    "Read that commit; nothing, if this is what was wanted.",
    Level.WARNING,
)
STRAY_MISSING = Rule(
    "replay-stray",
    "A commit without the fork scope is not covered by the replay rule, and the new line lacks this one.",
    "Decide: cherry-pick it with -x, or record why it is left out (`forktools replay drop`).",
    Level.WARNING,
)
STRAY_CHANGED = Rule(
    "replay-stray-changed",
    "A commit without the fork scope is not covered by the replay rule, and the new line changed this one.",
    "Read its range-diff (`forktools replay status`).",
    Level.WARNING,
)
REPLAY_RULES = (
    COMMIT_MISSING,
    COMMIT_REVERTED,
    COMMIT_CHANGED,
    COMMIT_UNRECORDED,
    COMMIT_THINNER,
    STRAY_MISSING,
    STRAY_CHANGED,
)


class MatchState(enum.StrEnum):
    """How a line carries a commit of the line before it."""

    SAME = "replayed"
    TRAILER = "replayed by trailer"
    ACCEPTED = "changed, accepted"
    CHANGED = "changed in replay"
    UNRECORDED = "changed before records"
    UPSTREAM = "in upstream"
    DROPPED = "dropped"
    REVERTED = "reverted"
    MISSING = "missing"


BROKEN = (MatchState.MISSING, MatchState.REVERTED, MatchState.CHANGED)  # these break the replay rule
CARRIED = (
    MatchState.SAME,
    MatchState.TRAILER,
    MatchState.ACCEPTED,
    MatchState.CHANGED,
    MatchState.UNRECORDED,
)


@dataclass(frozen=True, slots=True)
class CommitFate:
    """The fate of one commit: the commits of the new line or of upstream that stand for it, and a remark.

    `difference` is the digest to accept if the commit was changed. `thinner` says which part of a commit that
    still stands was removed by later work.
    """

    entry: LineCommit
    state: MatchState
    by: tuple[Commit, ...] = ()
    remark: str = ""
    difference: str = ""
    thinner: str = ""


IN_ANOTHER_CONTEXT = "in another context"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every commit of the old line with its fate, and what the new line has beyond them."""

    old: ReleaseLine
    new: ReleaseLine
    fates: tuple[CommitFate, ...]
    added: tuple[LineCommit, ...]


def compare(repo: git.Repo, old: ReleaseLine, new: ReleaseLine) -> Comparison:
    """The fate in `new` of every commit of `old`."""
    fates = _standing(repo, new, counterparts(repo, old, new))
    used = {commit.sha for fate in fates for commit in fate.by}
    added = tuple(entry for entry in new.entries if entry.commit.sha not in used)
    return Comparison(old, new, fates, added)


def counterparts(repo: git.Repo, old: ReleaseLine, new: ReleaseLine) -> tuple[CommitFate, ...]:
    """The match in `new` of every commit of `old`, whether or not later work has undone it."""
    upstream = read_upstream(repo, old.base, new.base)
    return _weighed(repo, new, upstream, trace(old.entries, new.entries, upstream))


def _weighed(
    repo: git.Repo, new: ReleaseLine, upstream: Sequence[LineCommit], fates: Sequence[CommitFate]
) -> tuple[CommitFate, ...]:
    """The fates, after comparing each commit found by name alone with the commit it stands for."""
    alone = [fate.by[0] for fate in fates if fate.state is MatchState.SAME and fate.by]
    unsure = ambiguous(repo, alone)  # their patch fits in two places
    doubtful = [fate for fate in fates if _is_doubtful(fate) or (fate.by and fate.by[0].sha in unsure)]
    if not doubtful:
        return tuple(fates)
    known = {entry.commit.sha: entry for entry in (*new.entries, *upstream)}
    accepted = {
        (commit.sha, digest): reason
        for entry in new.entries
        for (name, digest), reason in accepted_differences(entry.commit.message).items()
        for commit in _Ids(fate.entry.commit for fate in doubtful).find([name])
    }
    released = released_before_records(repo)
    shares: defaultdict[tuple[str, ...], list[CommitFate]] = defaultdict(list)
    for fate in doubtful:
        shares[tuple(commit.sha for commit in fate.by)].append(fate)
    weighed: dict[str, CommitFate] = {}
    for by, sharing in shares.items():
        alike = same_change(repo, [fate.entry.commit for fate in sharing], sharing[0].by)
        for fate in sharing:
            digest = difference(fate.entry, [known[sha] for sha in by])
            reason = accepted.get((fate.entry.commit.sha, digest))
            if alike or (fate.state is MatchState.SAME and same_place(repo, fate.entry.commit, fate.by[0])):
                by_subject = fate.state is MatchState.CHANGED
                found = replace(fate, state=MatchState.SAME, remark="as git picks it") if by_subject else fate
            elif reason:
                found = replace(fate, state=MatchState.ACCEPTED, remark=reason, difference=digest)
            else:
                state = MatchState.UNRECORDED if released.issuperset(by) else MatchState.CHANGED
                found = replace(fate, state=state, remark=_changed(fate), difference=digest)
            weighed[fate.entry.commit.sha] = found
    return tuple(weighed.get(fate.entry.commit.sha, fate) for fate in fates)


def unaccepted_difference(repo: git.Repo, old: Commit, by: Sequence[Commit]) -> str | None:
    """The digest to accept if `by` do not make the change of `old` and carry no record accepting that."""
    first, *rest = entries(repo, [old, *by])
    same_lines = len(rest) == 1 and first.lines == rest[0].lines and first.lines is not None
    if same_change(repo, [old], by) or (same_lines and same_place(repo, old, by[0])):
        return None
    digest = difference(first, rest)
    named = (key for commit in by for key in accepted_differences(commit.message))
    return None if any(old.sha.startswith(sha) and found == digest for sha, found in named) else digest


def _is_doubtful(fate: CommitFate) -> bool:
    """Whether the commits that stand for it were found by anything but the same patch."""
    by_lines = fate.state is MatchState.SAME and fate.remark == IN_ANOTHER_CONTEXT
    by_origin = fate.state is MatchState.UPSTREAM and bool(fate.remark)
    return by_lines or by_origin or fate.state in (MatchState.TRAILER, MatchState.CHANGED)


def _changed(fate: CommitFate) -> str:
    """A description of a change that was not accepted."""
    if fate.state is MatchState.SAME:
        return "the same lines at another place"
    if fate.state is MatchState.CHANGED:
        return "only its subject is the same"
    return fate.remark or "the trailer names it, the change is another"


def released_before_records(repo: git.Repo) -> set[str]:
    """The commits of the releases in `released_before_records`, a setting; they need no records."""
    named = [sha for _, sha in current().released_before_records]
    here = [sha for sha in named if run(repo, "cat-file", "-e", f"{sha}^{{commit}}")[0] == 0]
    return {commit.sha for commit in read_range(repo, here, [])} if here else set()


def _standing(repo: git.Repo, new: ReleaseLine, fates: Sequence[CommitFate]) -> tuple[CommitFate, ...]:
    """The fates; a commit with an incomplete change at the tip counts as reverted or left out on record."""
    position = {entry.commit.sha: number for number, entry in enumerate(new.entries)}
    lost = losses(repo, new, {commit.sha for fate in fates for commit in fate.by if commit.sha in position})
    ids = _Ids(fate.entry.commit for fate in fates)
    records = {
        commit.sha: (number, reason)
        for number, entry in enumerate(new.entries)
        for name, reason in dropped_reasons(entry.commit.message).items()
        for commit in ids.find([name])
    }
    return tuple(
        _fallen(fate, [*found], records.get(fate.entry.commit.sha), position)
        if (found := [loss for commit in fate.by for loss in lost.get(commit.sha, ())])
        and fate.state in CARRIED
        else fate
        for fate in fates
    )


def _fallen(
    fate: CommitFate, lost: Sequence[Loss], record: tuple[int, str] | None, position: Mapping[str, int]
) -> CommitFate:
    """The fate of a commit with losses. A record covers what it and the commits before it have removed."""
    until, reason = record or (-1, "")
    unsaid = [rest for loss in lost if (rest := _since(loss, until, position))]
    if undone := [loss for loss in unsaid if loss.is_undone]:
        return replace(fate, state=MatchState.REVERTED, remark=_gone(undone))
    if record and not any(loss.standing for loss in lost):
        return replace(fate, state=MatchState.DROPPED, remark=reason)
    said = f"not whole, on record: {reason}" if record else ""
    remark = "; ".join(filter(None, (fate.remark, said)))
    return replace(fate, remark=remark, thinner=_gone(unsaid) if unsaid else "")


def _since(loss: Loss, until: int, position: Mapping[str, int]) -> Loss | None:
    """The loss of a path to commits after a position; None if there is none."""
    if until < 0:
        return loss
    takings = tuple(one for one in loss.takings if position[one.by.sha] > until)
    return replace(loss, takings=takings) if takings else None


def _gone(lost: Sequence[Loss]) -> str:
    """A description of the changes that are gone."""
    first = lost[0]
    more = f" and {len(lost) - 1} more paths" if len(lost) > 1 else ""
    if not first.standing:
        return f"its change of {first.path}{more} is not there any more"
    lines = "a line" if first.lines == 1 else f"{first.lines} lines"
    by = _shorts(one.by for one in first.takings if one.taken)
    return f"{lines} of its change of {first.path}{more} taken back by {by}"


def verify(comparison: Comparison) -> Iterator[Finding]:
    """The findings of the replay rule: violations and warnings."""
    new = comparison.new
    if not new.cut_from_base:
        yield Finding(LINE_NOT_FROM_TAG, f"{new.branch} does not contain {new.upstream}", new.base)
    for fate in comparison.fates:
        commit, stray = fate.entry.commit, fate.entry.kind is CommitKind.STRAY
        rule, message = {
            MatchState.MISSING: (STRAY_MISSING if stray else COMMIT_MISSING, f"is not in {new.branch}"),
            MatchState.REVERTED: (STRAY_MISSING if stray else COMMIT_REVERTED, f"was undone in {new.branch}"),
            MatchState.CHANGED: (
                STRAY_CHANGED if stray else COMMIT_CHANGED,
                f"differs in {_shorts(fate.by)}",
            ),
            MatchState.UNRECORDED: (COMMIT_UNRECORDED, f"differs in {_shorts(fate.by)}"),
        }.get(fate.state, (None, ""))
        if rule is not None:
            remark = f" ({fate.remark})" if fate.remark else ""
            yield Finding(rule, f"{message}{remark}", commit.sha, commit.subject)
        if fate.thinner:
            yield Finding(COMMIT_THINNER, fate.thinner, commit.sha, commit.subject)


def trace(
    old: Sequence[LineCommit], new: Sequence[LineCommit], upstream: Sequence[LineCommit]
) -> tuple[CommitFate, ...]:
    """The fate of each entry of `old` that is not itself a record of an earlier replay."""
    search = _Search([entry for entry in old if entry.kind is not CommitKind.RECORD], new)
    search.by_patch()
    search.by_lines()
    search.by_trailer()
    search.by_common_origin()
    search.by_upstream(upstream)
    search.by_record()
    search.by_upstream_s_name(upstream)
    search.by_subject()
    return tuple(search.fate(entry) for entry in search.old)


class _Ids:
    """Commits by id, also by an abbreviated one (a trailer written by hand may hold one)."""

    def __init__(self, commits: Iterable[Commit]) -> None:
        self._by_start: defaultdict[str, list[Commit]] = defaultdict(list)
        for commit in commits:
            self._by_start[commit.sha[:7]].append(commit)

    def find(self, named: Iterable[str]) -> list[Commit]:
        return [c for name in named for c in self._by_start.get(name[:7], ()) if c.sha.startswith(name)]


def _reasons(new: Iterable[LineCommit], ids: _Ids) -> dict[str, str]:
    """The reasons for which old commits are left out or were reverted, from the records of the new line."""
    return {
        commit.sha: reason
        for entry in new
        for name, reason in dropped_reasons(entry.commit.message).items()
        for commit in ids.find([name])
    }


class _Search:
    """Pairs old commits with new ones; each step works on those that the stronger ones before it left.

    A new commit stands for one old commit, unless its trailers name several.
    """

    def __init__(self, old: Sequence[LineCommit], new: Sequence[LineCommit]) -> None:
        self.old = old
        self.new = [entry for entry in new if entry.kind is not CommitKind.RECORD]
        self.ids = _Ids(entry.commit for entry in old)
        self.reasons = _reasons(new, self.ids)
        self.empty = {entry.commit.sha: entry.is_empty for entry in self.old}
        self.found: dict[str, CommitFate] = {}
        self.taken: set[str] = set()
        self.undone = undone(entry.commit for entry in new)
        self.undone_before = undone(entry.commit for entry in old)

    def open(self) -> list[LineCommit]:
        return [entry for entry in self.old if entry.commit.sha not in self.found]

    def free(self) -> list[Commit]:
        """The new commits that change something and are not paired yet."""
        return [one.commit for one in self.new if one.commit.sha not in self.taken and not one.is_empty]

    def settle(
        self, entry: LineCommit, state: MatchState, by: Iterable[Commit] = (), remark: str = ""
    ) -> None:
        self.found[entry.commit.sha] = CommitFate(entry, state, tuple(by), remark)

    def by_patch(self) -> None:
        self._by_content(lambda entry: entry.patch)

    def by_lines(self) -> None:
        self._by_content(lambda entry: entry.lines, IN_ANOTHER_CONTEXT)

    def _by_content(self, content: Callable[[LineCommit], str | None], remark: str = "") -> None:
        """Pairs in order; of several new commits with one content, a trailer that names the old one
        decides."""
        candidates: defaultdict[str | None, list[Commit]] = defaultdict(list)
        for entry in self.new:
            candidates[content(entry)].append(entry.commit)
        candidates.pop(None, None)
        for by_name in (True, False):
            for entry in self.open():
                for commit in candidates.get(content(entry), ()):
                    if commit.sha not in self.taken and (
                        not by_name or entry.commit in self.ids.find(commit.picked_from)
                    ):
                        self.taken.add(commit.sha)
                        self.settle(entry, MatchState.SAME, [commit], remark)
                        break

    def by_trailer(self) -> None:
        """Pairs by `cherry picked from`. A squashed commit names several old ones; the parts of a split
        commit all name the same one."""
        free = self.free()
        new_ids = _Ids(free)
        named: defaultdict[str, list[Commit]] = defaultdict(list)
        hollow = {entry.commit.sha for entry in self.new if entry.is_empty}
        for commit in (entry.commit for entry in self.new if entry.commit.sha not in self.taken):
            for origin in self.ids.find(commit.picked_from):
                if commit.sha not in hollow or self.empty[origin.sha]:
                    named[origin.sha].append(commit)
        for entry in self.open():
            by = named.get(entry.commit.sha) or new_ids.find(entry.commit.picked_from)
            if by:
                self.taken.update(commit.sha for commit in by)
                self.settle(entry, MatchState.TRAILER, by)

    def by_common_origin(self) -> None:
        """Pairs commits picked from the same third commit, if no other old commit was picked from it."""
        shares: defaultdict[str, int] = defaultdict(int)
        for entry in self.old:
            for origin in entry.commit.picked_from:
                shares[origin] += 1
        children: defaultdict[str, list[Commit]] = defaultdict(list)
        for commit in self.free():
            for origin in commit.picked_from:
                children[origin].append(commit)
        for entry in self.open():
            sole = [origin for origin in entry.commit.picked_from if shares[origin] == 1]
            by = [commit for origin in sole for commit in children[origin] if commit.sha not in self.taken]
            if by:
                self.taken.update(commit.sha for commit in by)
                self.settle(entry, MatchState.TRAILER, by, "both were picked from one commit")

    def by_upstream(self, upstream: Sequence[LineCommit]) -> None:
        patches = {entry.patch: entry.commit for entry in upstream if entry.patch}
        for entry in self.open():
            if entry.patch in patches:
                self.settle(entry, MatchState.UPSTREAM, [patches[entry.patch]])

    def by_upstream_s_name(self, upstream: Sequence[LineCommit]) -> None:
        ids = _Ids(entry.commit for entry in upstream)
        for entry in self.open():
            if origins := ids.find(entry.commit.picked_from):
                self.settle(entry, MatchState.UPSTREAM, origins[:1], "it was picked from there")

    def by_record(self) -> None:
        for entry in self.open():
            if entry.commit.sha in self.reasons:
                self.settle(entry, MatchState.DROPPED, remark=self.reasons[entry.commit.sha])

    def by_subject(self) -> None:
        """Pairs by subject, the weakest evidence: one to one, in order. Two empty commits with one subject
        are the same."""
        candidates: defaultdict[str, list[LineCommit]] = defaultdict(list)
        for entry in self.new:
            if entry.commit.sha not in self.taken:
                candidates[entry.commit.subject].append(entry)
        for entry in self.open():
            same = candidates.get(entry.commit.subject, [])
            if chosen := next((one for one in same if one.is_empty is entry.is_empty), None):
                same.remove(chosen)
                self.taken.add(chosen.commit.sha)
                self.settle(entry, MatchState.SAME if entry.is_empty else MatchState.CHANGED, [chosen.commit])

    def fate(self, entry: LineCommit) -> CommitFate:
        """The match found, or REVERTED if the new line reverted it and the old line did not."""
        fate = self.found.get(entry.commit.sha)
        if fate is None:
            revert = self.undone_before.get(entry.commit.sha)
            remark = f"the old line reverts it in {revert.short}" if revert else self._hollow(entry)
            return CommitFate(entry, MatchState.MISSING, (), remark)
        reverts = [self.undone.get(commit.sha) for commit in fate.by]
        own = [revert for revert in reverts if revert is not None and revert.sha not in self.taken]
        if not own or len(own) < len(reverts):
            return fate
        if reason := self.reasons.get(entry.commit.sha):
            return CommitFate(entry, MatchState.DROPPED, fate.by, reason)
        return CommitFate(entry, MatchState.REVERTED, fate.by, f"in {own[0].short}")

    def _hollow(self, entry: LineCommit) -> str:
        """A remark on an empty commit that names the entry or has its subject; "" if there is none."""
        for one in self.new:
            named = entry.commit in self.ids.find(one.commit.picked_from)
            if one.is_empty and (named or one.commit.subject == entry.commit.subject):
                return f"{one.commit.short} {'names it' if named else 'has its subject'} and changes nothing"
        return ""


def undone(commits: Iterable[Commit]) -> dict[str, Commit]:
    """Each commit that a later one reverts, with that revert; a revert itself reverted does not count."""
    listed = list(commits)
    ids = _Ids(listed)
    found: dict[str, Commit] = {}
    for revert in reversed(listed):
        if revert.sha not in found:
            found.update({commit.sha: revert for commit in ids.find(revert.reverts)})
    return found


def _shorts(commits: Iterable[Commit]) -> str:
    return ", ".join(commit.short for commit in commits)
