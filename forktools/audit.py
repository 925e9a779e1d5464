"""The `audit` command: every release tag and every release line, checked by the current rules.

A gate checks only what is pushed through it. Only the audit finds a tag on a commit without the gate's
workflow, a line that was pushed past its check, or a release older than a rule it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forktools.commits import read_range
from forktools.git_repository import RepositoryError, commit_id, references, require_whole_history, run
from forktools.merge_changes import merge_changes
from forktools.policy import Branch, Finding, Level, Rule, judge
from forktools.remembered_release_lines import known_lines, recall
from forktools.replay_gate import verify_line
from forktools.settings import current
from forktools.tags import TAG_BEHIND, check_tag, parse_tag, upstream_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import git

GATE = ".github/workflows/version-policy.yaml"

TAG_UNCHECKED = Rule(
    "audit-tag-unchecked",
    f"A release tag's commit has {GATE}, which judges the tag when it is pushed.",
    "Nothing, if nothing else is wrong with it; a ruleset on tags says who may push one.",
    Level.WARNING,
)
UNREADABLE = Rule(
    "audit-unreadable",
    "Every tag and every line can be judged.",
    "Do what it says, or give the reason why it stays in the setting `accepted`.",
)


AUDIT_RULES = (TAG_UNCHECKED, UNREADABLE)


@dataclass(frozen=True, slots=True)
class Judged:
    """A tag or a line and its findings; `accepted` is the reason for which its findings are accepted."""

    name: str
    findings: tuple[Finding, ...]
    accepted: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of `audit`: tags and lines, each in version order."""

    tags: tuple[Judged, ...]
    lines: tuple[Judged, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, each with the name of its tag or line; those of accepted ones are left out."""
        return tuple(
            replace(finding, message=f"{one.name}: {finding.message}")
            for one in (*self.lines, *self.tags)
            if not one.accepted
            for finding in one.findings
        )


def audit(repo: git.Repo, remote: str) -> Audit:
    """Judges every tag that starts with v and every line. Raises RepositoryError on a shallow clone."""
    require_whole_history(repo)
    refs = references(repo)
    tags = (name.removeprefix("refs/tags/") for name in refs if name.startswith("refs/tags/v"))
    lines = known_lines(repo, refs, remote)
    return Audit(
        tuple(_judged(tag, _of_tag(repo, refs, tag, remote)) for tag in sorted(tags, key=_by_number)),
        tuple(_judged(line, _of_line(repo, line, remote)) for line in lines),
    )


def _by_number(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that compares the numbers in a name as numbers: .10 comes after .9."""
    words: list[str] = [""]
    for char in name:
        if words[-1] and (char.isdecimal() and char.isascii()) != words[-1][-1:].isdecimal():
            words.append("")
        words[-1] += char
    return tuple((0, int(word)) if word.isdecimal() and word.isascii() else (1, word) for word in words)


def _judged(name: str, findings: Iterator[Finding]) -> Judged:
    try:
        found = tuple(findings)
    except RepositoryError as error:
        found = (Finding(UNREADABLE, f"{error.problem}; {error.fix}".rstrip("; .")),)
    return Judged(name, found, dict(current().accepted).get(name, "") if found else "")


def _of_tag(repo: git.Repo, refs: Mapping[str, str], tag: str, remote: str) -> Iterator[Finding]:
    ref = f"refs/tags/{tag}"
    commit = commit_id(repo, ref, "the tag")
    theirs = upstream_tags(refs).get(tag)
    own = theirs == ref and current().cuts_from_trunk  # a base tag, not upstream's
    if theirs is not None and not own and commit_id(repo, theirs, "the tag") == commit:
        return  # upstream's own
    verdict = check_tag(repo, tag, remote)
    yield from (finding for finding in verdict.findings if finding.rule is not TAG_BEHIND)
    if parse_tag(tag) and run(repo, "cat-file", "-e", f"{commit}:{GATE}")[0]:
        yield Finding(TAG_UNCHECKED, f"its commit has no {GATE}", commit)


def _of_line(repo: git.Repo, branch: str, remote: str) -> Iterator[Finding]:
    line = recall(repo, branch, remote).line
    commits = read_range(repo, [line.tip], [line.base])
    merges = merge_changes(repo, commits)
    for commit in commits:
        yield from judge(Branch.LINE, commit, (), merges.get(commit.sha))
    yield from verify_line(repo, branch, remote, only=()).findings  # later lines are checked on their own
