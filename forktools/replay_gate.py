"""The replay rule as the gates apply it: a line against the one before it, and each later line against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forktools import tags
from forktools.commit_matching import BROKEN, CARRIED, CommitFate, Comparison, MatchState, compare, verify
from forktools.commits import read_range
from forktools.git_repository import references
from forktools.policy import Finding, line_version, version_name
from forktools.remembered_release_lines import (
    LINE_FOREIGN,
    LINE_LOST,
    RememberedLine,
    known_lines,
    previous_line,
    recall,
)
from forktools.signatures import judge_commits

if TYPE_CHECKING:
    from collections.abc import Collection

    import git

    from forktools.release_line import ReleaseLine


@dataclass(frozen=True, slots=True)
class LineVerdict:
    """The replay rule's verdict on a line: how it carries the one before it (None: it is the first), and
    how the later lines carry it."""

    line: RememberedLine
    before: Comparison | None
    after: tuple[Comparison, ...]
    findings: tuple[Finding, ...]


def verify_line(
    repo: git.Repo,
    branch: str,
    remote: str,
    only: Collection[str] | None = None,
    *,
    signatures: bool = True,
) -> LineVerdict:
    """Compares a line with the one before it, and every later one with it.

    Of the line's commits, the later lines need those in `only` (all by default). With `signatures`, its
    commits are also checked for the signatures and sign-offs that the settings require.
    """
    refs = references(repo)
    version = line_version(branch)
    known = known_lines(repo, refs, remote)
    foreign = [name for name in known if tags.is_foreign(refs, version_name(name))]
    later = [
        name
        for name in known
        if name not in foreign and version and (line_version(name) or version) > version
    ]
    if only is not None and not only:
        later, foreign = [], []
    lines = _Lines(repo, remote)
    own = lines.recall(branch)
    findings = [*own.findings]
    if signatures:
        findings += vouched(repo, own.line)
    findings += [Finding(LINE_FOREIGN, f"upstream has no release for {name}") for name in foreign]
    previous = previous_line(repo, refs, branch, remote)
    before = None
    if previous is not None:
        findings += lines.recall(previous).findings
        before = lines.compare(previous, branch)
        findings += verify(before)
    after = []
    for name in later:
        findings += lines.recall(name).findings
        after.append(lines.compare(branch, name, later))
        findings += [finding for finding in verify(after[-1]) if only is None or finding.sha in only]
    return LineVerdict(own, before, tuple(after), tuple(findings))


def vouched(repo: git.Repo, line: ReleaseLine) -> list[Finding]:
    """The findings for commits of a line without the signatures and sign-offs that the settings require."""
    return [*judge_commits(repo, read_range(repo, [line.tip], [line.base]))]


def check_tag(repo: git.Repo, tag: str, remote: str) -> tags.TagVerdict:
    """As `tags.check_tag`, plus the replay rule for the tag's line; later lines need the tag's commits."""
    found = tags.check_tag(repo, tag, remote)
    parsed, refs = tags.parse_tag(tag), references(repo)
    astray = any(finding.rule is tags.LINE_NOT_FROM_TAG for finding in found.findings)
    if parsed is None or not found.commit or astray:
        return found
    base = tags.commit_of_upstream_tag(repo, refs, parsed.upstream)
    held = {commit.sha for commit in read_range(repo, [found.commit], [base])}
    told = {finding.sha for finding in found.findings if finding.rule is tags.TAG_ORDER}
    more = [
        finding
        for finding in verify_line(repo, parsed.line, remote, held, signatures=False).findings
        if finding.rule is not LINE_LOST or finding.sha not in told
    ]
    return replace(found, findings=(*found.findings, *more))


class _Lines:
    """Lines and comparisons, each computed once."""

    def __init__(self, repo: git.Repo, remote: str) -> None:
        self.repo, self.remote = repo, remote
        self._recalled: dict[str, RememberedLine] = {}
        self._compared: dict[tuple[str, str], Comparison] = {}

    def recall(self, branch: str) -> RememberedLine:
        if branch not in self._recalled:
            self._recalled[branch] = recall(self.repo, branch, self.remote)
        return self._recalled[branch]

    def compare(self, old: str, new: str, between: Collection[str] = ()) -> Comparison:
        """How `new` carries `old`: directly, or through the lines in `between`, from one to the next."""
        if (old, new) not in self._compared:
            found = compare(self.repo, self.recall(old).owed, self.recall(new).line)
            for middle in between:
                if middle == new or not any(fate.state in BROKEN for fate in found.fates):
                    break
                rest = [*between][[*between].index(middle) + 1 :]
                first, second = self.compare(old, middle, between), self.compare(middle, new, rest)
                found = replace(found, fates=_through(found.fates, first, second))
            self._compared[old, new] = found
        return self._compared[old, new]


def _through(fates: tuple[CommitFate, ...], first: Comparison, second: Comparison) -> tuple[CommitFate, ...]:
    """The fates, where a commit may arrive through the line in the middle, or have been left out there."""
    to_middle = {fate.entry.commit.sha: fate for fate in first.fates}
    to_end = {fate.entry.commit.sha: fate for fate in second.fates}
    return tuple(
        _joined(fate, to_middle[fate.entry.commit.sha], to_end, first.new.branch)
        if fate.state in BROKEN
        else fate
        for fate in fates
    )


def _joined(fate: CommitFate, middle: CommitFate, to_end: dict[str, CommitFate], branch: str) -> CommitFate:
    if middle.state is MatchState.DROPPED:
        return replace(middle, remark=f"left out of {branch}: {middle.remark}")
    if middle.state not in CARRIED or middle.state in BROKEN:
        return fate
    ends = [to_end.get(commit.sha) for commit in middle.by]
    good = [end for end in ends if end is not None and end.state not in BROKEN]
    if not ends or len(good) < len(ends):
        return fate
    by = tuple(commit for end in good for commit in end.by)
    return CommitFate(fate.entry, good[0].state, by, f"by way of {branch}")
