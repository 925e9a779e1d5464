"""Upstream fixes that a release line lacks: the `backports` command."""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.change_similarity import ambiguous, same_change, same_place
from forktools.commit_matching import undone
from forktools.commits import patch_ids, read_range
from forktools.git_repository import RepositoryError, branch_tip, commit_id, references
from forktools.patch_presence import losses
from forktools.policy import line_version, version_name
from forktools.release_line import CommitKind, dropped_reasons, read_line
from forktools.settings import current
from forktools.tags import upstream_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import git

    from forktools.commits import Commit
    from forktools.release_line import LineCommit, ReleaseLine

_NAMED = re.compile(r"\bCVE-[0-9]{4}-[0-9]{4,}\b|\bGHSA(?:-[0-9a-z]{4}){3}\b", re.IGNORECASE)
_SECURITY = re.compile(r"\bsecurity\b|\bvulnerab", re.IGNORECASE)
_TYPE = re.compile(r"([a-z]+)(?:\([^)]*\))?!?: ", re.IGNORECASE)
_MENDED = re.compile(
    r"\b(?:fix(?:es|ed|ing)?|bugs?|bugfix|hotfix|panics?|deadlocks?|races?|leak(?:s|ed|ing)?|crash(?:es)?"
    r"|corrupt\w*|regressions?|data loss)\b",
    re.IGNORECASE,
)


class Urgency(enum.StrEnum):
    """How urgent an upstream commit is for a line that lacks it, the most urgent first."""

    SECURITY = "security"
    FIX = "fix"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Missing:
    """An upstream commit that the line lacks: the names of its vulnerabilities, and the first upstream
    release with it (empty: none yet)."""

    commit: Commit
    urgency: Urgency
    names: tuple[str, ...]
    release: str


@dataclass(frozen=True, slots=True)
class Backports:
    """The commits of base..upto that a line lacks, the most urgent first, with the number that it has and the
    number left out on record."""

    line: ReleaseLine
    upto: str
    missing: tuple[Missing, ...]
    carried: int
    declined: int


def newest_line(repo: git.Repo, remote: str) -> str:
    """The line of the newest version. Raises RepositoryError when there is none."""
    places = ("refs/heads/", f"refs/remotes/{remote}/")
    names = {ref.removeprefix(place) for ref in references(repo) for place in places if ref.startswith(place)}
    lines = [
        (version, name)
        for name in names
        if name.startswith(current().line_prefix) and (version := line_version(name))
    ]
    if not lines:
        raise RepositoryError("there is no release line here", f"Run `git fetch {remote}`, or give --line.")
    return max(lines)[1]


def find(repo: git.Repo, branch: str, remote: str, upto: str = "") -> Backports:
    """The commits that upstream added from the line's base to `upto` (its newest release, or the trunk) and
    that the line lacks.

    Raises RepositoryError without the line, upstream's tags or `upto`.
    """
    line = read_line(repo, branch, remote)
    refs = references(repo)
    name, tip = _target(repo, refs, remote, upto)
    commits = read_range(repo, [tip], [line.base])
    gone = undone(commits)
    wanted = [c for c in commits if not c.is_merge and c.sha not in gone and c not in gone.values()]
    has = _carried(repo, line, wanted)
    declined = _declined(line, wanted) - has
    releases = _releases(repo, refs, line)
    missing = [
        Missing(commit, urgency(commit), vulnerabilities(commit), releases.get(commit.sha, ""))
        for commit in wanted
        if commit.sha not in has | declined
    ]
    order = [*Urgency]
    missing.sort(key=lambda one: (order.index(one.urgency), not one.names))
    return Backports(line, name, tuple(missing), len(has), len(declined))


def vulnerabilities(commit: Commit) -> tuple[str, ...]:
    """The CVE and GHSA names in a message, each once."""
    return tuple(dict.fromkeys(_NAMED.findall(commit.message)))


def urgency(commit: Commit) -> Urgency:
    """The urgency by the words of the message, because upstream does not label its commits."""
    if _NAMED.search(commit.message) or _SECURITY.search(commit.message):
        return Urgency.SECURITY
    kind = _TYPE.match(commit.subject)
    if kind is not None and kind[1].lower() in current().types:
        return Urgency.FIX if kind[1].lower() == "fix" else Urgency.OTHER
    return Urgency.FIX if _MENDED.search(commit.subject) else Urgency.OTHER


def _target(repo: git.Repo, refs: Mapping[str, str], remote: str, upto: str) -> tuple[str, str]:
    tags = upstream_tags(refs)
    if upto:
        return upto, commit_id(repo, tags.get(upto, upto), "upstream's commit")
    if current().cuts_from_trunk:
        for trunk in current().trunks:
            if tip := branch_tip(repo, refs, trunk, remote):
                return trunk, tip
    if not tags:
        raise RepositoryError("upstream's tags are not in this repository", "Run `forktools upstream fetch`.")
    newest = max(tags, key=lambda tag: line_version(tag) or 0)
    return newest, commit_id(repo, tags[newest], "the upstream tag")


def _carried(repo: git.Repo, line: ReleaseLine, wanted: Sequence[Commit]) -> set[str]:
    """The ids of those `wanted` that the line has and has not reverted: by its change or by a trailer."""
    gone = undone(entry.commit for entry in line.entries)
    there = [e for e in line.entries if not e.is_empty and e.commit.sha not in gone]
    found = _same(repo, there, wanted)
    for entry in there:
        for sha in _called(wanted, entry.commit.picked_from):
            found[sha].add(entry.commit.sha)
    lost = losses(repo, line, set().union(*found.values()))
    fallen = {sha for sha, parts in lost.items() if any(part.is_undone for part in parts)}
    return {sha for sha, by in found.items() if by - fallen}


def _same(
    repo: git.Repo, there: Sequence[LineCommit], wanted: Sequence[Commit]
) -> defaultdict[str, set[str]]:
    """The commits of `there` that make the change of a `wanted` commit, by the id of the wanted one.

    Equal patches are not enough: where a file has the same lines twice, or other files have them, the patch
    can be another change.
    """
    patches, lines = patch_ids(repo, wanted), patch_ids(repo, wanted, context=0)
    alike: defaultdict[str, list[LineCommit]] = defaultdict(list)
    for entry in there:
        if entry.lines:
            alike[entry.lines].append(entry)
    pairs = [(one, entry) for one in wanted for entry in alike.get(lines.get(one.sha, ""), ())]
    unsure = ambiguous(repo, [entry.commit for _, entry in pairs])
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one, entry in pairs:
        own = entry.commit
        certain = entry.patch == patches.get(one.sha) and own.sha not in unsure
        if certain or same_change(repo, [one], [own]) or same_place(repo, one, own):
            found[one.sha].add(own.sha)
    return found


def _declined(line: ReleaseLine, wanted: Sequence[Commit]) -> set[str]:
    records = (entry.commit for entry in line.entries if entry.kind is CommitKind.RECORD)
    return _called(wanted, (name for commit in records for name in dropped_reasons(commit.message)))


def _called(commits: Iterable[Commit], names: Iterable[str]) -> set[str]:
    """The ids of those commits that one of `names` names, in full or abbreviated."""
    wanted = tuple(names)
    return {commit.sha for commit in commits if commit.sha.startswith(wanted)} if wanted else set()


def _releases(repo: git.Repo, refs: Mapping[str, str], line: ReleaseLine) -> dict[str, str]:
    """The first upstream release that contains each commit, by commit id."""
    base = line_version(version_name(line.branch))
    newer = [
        (version, tag, ref)
        for tag, ref in upstream_tags(refs).items()
        if (version := line_version(tag)) and base and version > base
    ]
    found: dict[str, str] = {}
    seen = [line.base]
    for _, tag, ref in sorted(newer):
        commit = commit_id(repo, ref, "the upstream tag")
        listed = "\n".join([commit, *(f"^{sha}" for sha in seen)]) + "\n"
        shas = isolated_git.ask(repo, "rev-list", "--stdin", stdin=listed.encode()).decode().split()
        found |= dict.fromkeys((sha for sha in shas if sha not in found), tag)
        seen.append(commit)
    return found
