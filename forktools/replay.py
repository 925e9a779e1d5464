"""Which commits of one line another carries.

The replay rule: a new line carries every fork commit of the line before it. What "carries" means is decided
here, from the strongest evidence to the weakest: the same patch, a `cherry picked from` trailer, the same
patch in upstream's own history, a recorded reason for leaving it out, and last the same subject.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools.lines import Entry, Kind, Line, dropped_reasons, read_upstream
from forktools.policy import Finding, Level, Rule
from forktools.tags import LINE_NOT_FROM_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import git

    from forktools.commits import Commit

COMMIT_MISSING = Rule(
    "replay-missing",
    "A new line carries every fork commit of the line before it.",
    "Cherry-pick it with -x in a pull request into the new line, or record why it is left out "
    "(`forktools replay drop`).",
)
COMMIT_REVERTED = Rule(
    "replay-reverted",
    "A replayed commit stays in the new line.",
    "Revert the revert, or record why the commit is left out (`forktools replay drop`).",
)
COMMIT_CHANGED = Rule(
    "replay-changed",
    "A commit matched by its subject alone may not be the same work.",
    "Read its range-diff (`forktools replay status`); pick with -x so that the origin is on record.",
    Level.WARNING,
)
STRAY_MISSING = Rule(
    "replay-stray",
    "A commit without the fork scope is not covered by the replay rule, and the new line lacks this one.",
    "Decide: cherry-pick it with -x, or record why it is left out (`forktools replay drop`).",
    Level.WARNING,
)
REPLAY_RULES = (COMMIT_MISSING, COMMIT_REVERTED, COMMIT_CHANGED, STRAY_MISSING)


class State(enum.StrEnum):
    """How a line carries a commit of the line before it."""

    SAME = "replayed"
    TRAILER = "replayed by trailer"
    CHANGED = "changed in replay"
    UPSTREAM = "in upstream"
    DROPPED = "dropped"
    REVERTED = "reverted"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one commit, the commits of the new line or of upstream that stand for it, a remark."""

    entry: Entry
    state: State
    by: tuple[Commit, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every commit of the old line with its fate, and what the new line has beyond them."""

    old: Line
    new: Line
    fates: tuple[Fate, ...]
    added: tuple[Entry, ...]


def compare(repo: git.Repo, old: Line, new: Line) -> Comparison:
    """The fate in `new` of every commit of `old`."""
    fates = trace(old.entries, new.entries, read_upstream(repo, old.base, new.base))
    used = {commit.sha for fate in fates for commit in fate.by}
    added = tuple(entry for entry in new.entries if entry.commit.sha not in used)
    return Comparison(old, new, fates, added)


def verify(comparison: Comparison) -> Iterator[Finding]:
    """Where the replay rule is broken, and what deserves a look."""
    new = comparison.new
    if not new.cut_from_base:
        yield Finding(LINE_NOT_FROM_TAG, f"{new.branch} does not contain {new.upstream}", new.base)
    for fate in comparison.fates:
        commit, stray = fate.entry.commit, fate.entry.kind is Kind.STRAY
        rule, message = {
            State.MISSING: (STRAY_MISSING if stray else COMMIT_MISSING, f"is not in {new.branch}"),
            State.REVERTED: (STRAY_MISSING if stray else COMMIT_REVERTED, f"was reverted in {new.branch}"),
            State.CHANGED: (COMMIT_CHANGED, f"has only its subject in common with {_shorts(fate.by)}"),
        }.get(fate.state, (None, ""))
        if rule is not None:
            remark = f" ({fate.remark})" if fate.remark else ""
            yield Finding(rule, f"{message}{remark}", commit.sha, commit.subject)


def trace(old: Sequence[Entry], new: Sequence[Entry], upstream: Sequence[Entry]) -> tuple[Fate, ...]:
    """The fate of each entry of `old` that is not itself a record of an earlier replay."""
    search = _Search([entry for entry in old if entry.kind is not Kind.RECORD], new)
    search.by_patch()
    search.by_trailer()
    search.by_common_origin()
    search.by_upstream(upstream)
    search.by_record()
    search.by_subject()
    return tuple(search.fate(entry) for entry in search.old)


class _Ids:
    """Commits by id, found by an abbreviation too (a trailer written by hand may hold one)."""

    def __init__(self, commits: Iterable[Commit]) -> None:
        self._by_start: defaultdict[str, list[Commit]] = defaultdict(list)
        for commit in commits:
            self._by_start[commit.sha[:7]].append(commit)

    def find(self, named: Iterable[str]) -> list[Commit]:
        return [c for name in named for c in self._by_start.get(name[:7], ()) if c.sha.startswith(name)]


class _Search:
    """Pairs old commits with new ones; each step takes what the stronger ones before it left over.

    A new commit stands for one old commit, unless its trailers name several.
    """

    def __init__(self, old: Sequence[Entry], new: Sequence[Entry]) -> None:
        self.old = old
        self.new = [entry for entry in new if entry.kind is not Kind.RECORD]
        self.ids = _Ids(entry.commit for entry in old)
        self.reasons = {
            commit.sha: reason
            for entry in new
            if entry.kind is Kind.RECORD
            for name, reason in dropped_reasons(entry.commit.message).items()
            for commit in self.ids.find([name])
        }
        self.found: dict[str, Fate] = {}
        self.taken: set[str] = set()
        self.undone = undone(entry.commit for entry in new)
        self.undone_before = undone(entry.commit for entry in old)

    def open(self) -> list[Entry]:
        return [entry for entry in self.old if entry.commit.sha not in self.found]

    def free(self) -> list[Commit]:
        return [entry.commit for entry in self.new if entry.commit.sha not in self.taken]

    def settle(self, entry: Entry, state: State, by: Iterable[Commit] = (), remark: str = "") -> None:
        self.found[entry.commit.sha] = Fate(entry, state, tuple(by), remark)

    def by_patch(self) -> None:
        """In order; of several new commits with one patch, first the one whose trailer names the old."""
        candidates: defaultdict[str | None, list[Commit]] = defaultdict(list)
        for entry in self.new:
            candidates[entry.patch].append(entry.commit)
        candidates.pop(None, None)
        for by_name in (True, False):
            for entry in self.open():
                for commit in candidates.get(entry.patch, ()):
                    if commit.sha not in self.taken and (
                        not by_name or entry.commit in self.ids.find(commit.picked_from)
                    ):
                        self.taken.add(commit.sha)
                        self.settle(entry, State.SAME, [commit])
                        break

    def by_trailer(self) -> None:
        """A squashed commit names several old ones; the parts of a split one all name the same."""
        free = self.free()
        new_ids = _Ids(free)
        named: defaultdict[str, list[Commit]] = defaultdict(list)
        for commit in free:
            for origin in self.ids.find(commit.picked_from):
                named[origin.sha].append(commit)
        for entry in self.open():
            by = named.get(entry.commit.sha) or new_ids.find(entry.commit.picked_from)
            if by:
                self.taken.update(commit.sha for commit in by)
                self.settle(entry, State.TRAILER, by)

    def by_common_origin(self) -> None:
        """Picked from one third commit, from which no other old commit was."""
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
                self.settle(entry, State.TRAILER, by, "both were picked from one commit")

    def by_upstream(self, upstream: Sequence[Entry]) -> None:
        patches = {entry.patch: entry.commit for entry in upstream if entry.patch}
        ids = _Ids(entry.commit for entry in upstream)
        for entry in self.open():
            if entry.patch in patches:
                self.settle(entry, State.UPSTREAM, [patches[entry.patch]])
            elif origins := ids.find(entry.commit.picked_from):
                self.settle(entry, State.UPSTREAM, origins[:1], "it was picked from there")

    def by_record(self) -> None:
        for entry in self.open():
            if entry.commit.sha in self.reasons:
                self.settle(entry, State.DROPPED, remark=self.reasons[entry.commit.sha])

    def by_subject(self) -> None:
        """The weakest evidence: one to one, in order. Two empty commits of one subject are the same."""
        candidates: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.new:
            if entry.commit.sha not in self.taken:
                candidates[entry.commit.subject].append(entry)
        for entry in self.open():
            if same := candidates.get(entry.commit.subject):
                chosen = same.pop(0)
                empty = not any(e.patch or e.commit.is_merge for e in (entry, chosen))
                self.taken.add(chosen.commit.sha)
                self.settle(entry, State.SAME if empty else State.CHANGED, [chosen.commit])

    def fate(self, entry: Entry) -> Fate:
        """What was found, unless the new line took it back by a revert that the old line does not have."""
        fate = self.found.get(entry.commit.sha)
        if fate is None:
            revert = self.undone_before.get(entry.commit.sha)
            remark = f"the old line reverts it in {revert.short}" if revert else ""
            return Fate(entry, State.MISSING, (), remark)
        reverts = [self.undone.get(commit.sha) for commit in fate.by]
        own = [revert for revert in reverts if revert is not None and revert.sha not in self.taken]
        if not own or len(own) < len(reverts):
            return fate
        if reason := self.reasons.get(entry.commit.sha):
            return Fate(entry, State.DROPPED, fate.by, reason)
        return Fate(entry, State.REVERTED, fate.by, f"in {own[0].short}")


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
