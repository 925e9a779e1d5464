"""Release tags of the fork: vX.Y.Z.vcluster.N, the Nth release of the line release/vcluster/vX.Y.Z."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from forktools.commits import read_range
from forktools.policy import LINE_PREFIX, TRUNKS, Finding, Level, Rule, line_version
from forktools.repository import (
    RepositoryError,
    branch_tip,
    commit_id,
    is_ancestor,
    references,
    require_whole_history,
)
from forktools.text import SUBJECT_LIMIT, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import git
    from packaging.version import Version

UPSTREAM_URL = "https://github.com/k3s-io/kine"
# Upstream's tags apart from the fork's own: a fork can hold a tag `v0.16.3` of its own making.
UPSTREAM_TAGS = "refs/upstream/tags/"

_TAG = re.compile(r"(v[0-9]+\.[0-9]+\.[0-9]+)\.vcluster\.([0-9]+)")

TAG_SCHEME = Rule(
    "tag-scheme", "A release tag is vX.Y.Z.vcluster.N.", "Name it as `forktools next-tag --line vX.Y.Z` says."
)
LINE_MISSING = Rule(
    "line-missing",
    f"The line a tag belongs to, {LINE_PREFIX}vX.Y.Z, exists.",
    "Cut the line with `forktools replay apply` and push it before the tag.",
)
TAG_NOT_ON_LINE = Rule(
    "tag-not-on-line",
    "A release tag names a commit of its line.",
    "Move the tag to a commit of the line: delete it, and tag the line's tip.",
)
LINE_NOT_FROM_TAG = Rule(
    "line-not-from-upstream-tag",
    "A line starts at upstream's tag vX.Y.Z and adds only its own commits.",
    "Cut the line again from the upstream tag: `forktools replay apply`.",
)
TAG_NUMBER = Rule(
    "tag-number",
    "Releases of a line count from 0 without a hole.",
    "Use the number `forktools next-tag` gives.",
)
TAG_ORDER = Rule(
    "tag-order",
    "A release builds on the one before it.",
    "Make sure that nothing released was lost when the line was rewritten.",
    Level.WARNING,
)
TAG_BEHIND = Rule(
    "tag-behind-tip",
    "A release normally takes in all of its line.",
    "Tag the tip, unless the newer commits are left out on purpose.",
    Level.WARNING,
)
TAG_RULES = (TAG_SCHEME, LINE_MISSING, TAG_NOT_ON_LINE, LINE_NOT_FROM_TAG, TAG_NUMBER, TAG_ORDER, TAG_BEHIND)


@dataclass(frozen=True, slots=True)
class ForkTag:
    """A release tag, taken apart: upstream's tag and the number."""

    upstream: str
    number: int

    @property
    def line(self) -> str:
        return LINE_PREFIX + self.upstream

    def __str__(self) -> str:
        return f"{self.upstream}.vcluster.{self.number}"


@dataclass(frozen=True, slots=True)
class TagVerdict:
    """What `check-tag` found. `exists` says whether the tag is there or the line's tip stood in for it; the
    fields after it are empty when only the name was checked."""

    tag: str
    findings: tuple[Finding, ...]
    line: str = ""
    exists: bool = False
    commit: str = ""
    behind: int = 0


def parse_tag(tag: str) -> ForkTag | None:
    """The parts of a release tag; None if it does not follow the scheme."""
    match = _TAG.fullmatch(tag)
    return ForkTag(match[1], int(match[2])) if match else None


def upstream_commit(repo: git.Repo, refs: Mapping[str, str], tag: str) -> str:
    """The commit of upstream's `tag`: from `refs/upstream/tags/` when fetched there, else from the tags.

    Raises RepositoryError when it is in neither.
    """
    for ref in (UPSTREAM_TAGS + tag, f"refs/tags/{tag}"):
        if ref in refs:
            return commit_id(repo, ref, "the upstream tag")
    raise RepositoryError(
        f"upstream's tag {tag} is not in this repository",
        f"git fetch --no-tags {UPSTREAM_URL} 'refs/tags/v*:{UPSTREAM_TAGS}v*'",
    )


def check_name(tag: str) -> TagVerdict:
    """Whether `tag` follows the scheme."""
    parsed = parse_tag(tag)
    if parsed is None:
        return TagVerdict(tag, (Finding(TAG_SCHEME, f"{_shown(tag)} is not vX.Y.Z.vcluster.N"),))
    return TagVerdict(tag, (), parsed.line)


def check_tag(repo: git.Repo, tag: str, remote: str) -> TagVerdict:
    """Whether `tag` may be released; of a tag that is not there yet, whether it may be put on its line's tip.

    Raises RepositoryError on a shallow clone, or when upstream's tag has not been fetched.
    """
    parsed = parse_tag(tag)
    if parsed is None:
        return check_name(tag)
    require_whole_history(repo)
    refs = references(repo)
    tip = branch_tip(repo, refs, parsed.line, remote)
    if tip is None:
        return TagVerdict(tag, (Finding(LINE_MISSING, f"there is no branch {parsed.line}"),), parsed.line)
    ref = f"refs/tags/{tag}"
    exists = ref in refs
    commit = commit_id(repo, ref, "the tag") if exists else tip
    findings = [
        *_check_number(repo, refs, parsed, tag, commit),
        *_check_line(repo, refs, parsed, tip, remote),
    ]
    behind = 0
    if not is_ancestor(repo, commit, tip):
        findings.append(Finding(TAG_NOT_ON_LINE, f"{tag} is not on {parsed.line}", commit))
    else:
        behind = len(read_range(repo, [tip], [commit]))
        if behind:
            findings.append(
                Finding(
                    TAG_BEHIND, f"{tag} is {behind} commit{'s' * (behind > 1)} behind {parsed.line}", commit
                )
            )
    return TagVerdict(tag, tuple(findings), parsed.line, exists, commit, behind)


def next_tag(repo: git.Repo, line: str, remote: str) -> ForkTag:
    """The tag of a line's next release.

    Raises RepositoryError when the line or upstream's tag is not here.
    """
    refs = references(repo)
    upstream = line.removeprefix(LINE_PREFIX)
    if branch_tip(repo, refs, line, remote) is None:
        raise RepositoryError(f"there is no branch {visible(line)}", f"git fetch {visible(remote)} --tags")
    upstream_commit(repo, refs, upstream)  # a clone without tags would answer 0
    return ForkTag(upstream, max(_numbers(refs, upstream), default=-1) + 1)


def _numbers(refs: Mapping[str, str], upstream: str) -> dict[int, str]:
    """The numbers taken on a line, with the reference that takes each."""
    names = (name for name in refs if name.startswith("refs/tags/"))
    parsed = ((name, parse_tag(name.removeprefix("refs/tags/"))) for name in names)
    return {tag.number: name for name, tag in parsed if tag and tag.upstream == upstream}


def _check_number(
    repo: git.Repo, refs: Mapping[str, str], parsed: ForkTag, tag: str, commit: str
) -> Iterator[Finding]:
    if str(parsed) != tag:
        yield Finding(TAG_NUMBER, f"{tag} is not written as {parsed}", commit)
        return
    taken = _numbers(refs, parsed.upstream)
    if gaps := list(islice((number for number in range(parsed.number) if number not in taken), 4)):
        missing = ", ".join(str(ForkTag(parsed.upstream, number)) for number in gaps[:3])
        more = " and more" if len(gaps) > 3 else ""
        yield Finding(TAG_NUMBER, f"{tag} leaves out {missing}{more}", commit)
    elif parsed.number not in taken and max(taken, default=-1) > parsed.number:
        yield Finding(TAG_NUMBER, f"{tag} comes after {ForkTag(parsed.upstream, max(taken))}", commit)
    earlier = max((number for number in taken if number < parsed.number), default=None)
    if earlier is not None and not is_ancestor(repo, commit_id(repo, taken[earlier], "the tag"), commit):
        yield Finding(TAG_ORDER, f"{tag} does not build on {ForkTag(parsed.upstream, earlier)}", commit)


def _check_line(
    repo: git.Repo, refs: Mapping[str, str], parsed: ForkTag, tip: str, remote: str
) -> Iterator[Finding]:
    base = upstream_commit(repo, refs, parsed.upstream)
    own = refs.get(f"refs/tags/{parsed.upstream}")
    if own is not None and commit_id(repo, own, "the tag") != base:
        yield Finding(LINE_NOT_FROM_TAG, f"the tag {parsed.upstream} here is not upstream's", base)
    if not is_ancestor(repo, base, tip):
        yield Finding(LINE_NOT_FROM_TAG, f"{parsed.line} does not contain {parsed.upstream}", base)
        return
    added = read_range(repo, [tip], [base])
    alone = {commit.sha for commit in read_range(repo, [tip], [base, *_elsewhere(refs, parsed, remote)])}
    if shared := [commit for commit in added if commit.sha not in alone]:
        yield Finding(
            LINE_NOT_FROM_TAG,
            f"{parsed.line} holds {len(shared)} commit{'s' * (len(shared) > 1)} of the trunk or of another "
            f"upstream release, so it was not cut from {parsed.upstream}; here is the first",
            shared[0].sha,
            shared[0].subject,
        )


def _elsewhere(refs: Mapping[str, str], parsed: ForkTag, remote: str) -> Iterator[str]:
    """What a line must not share commits with: the trunk and upstream's other releases."""
    trunks = [place + trunk for trunk in TRUNKS for place in ("refs/heads/", f"refs/remotes/{remote}/")]
    yield from (name for name in trunks if name in refs)
    fetched = [name for name in refs if name.startswith(UPSTREAM_TAGS)]
    for name in fetched or [name for name in refs if name.startswith("refs/tags/")]:
        tag = name.rsplit("/", 1)[1]
        if line_version(tag) and tag != parsed.upstream:
            yield name


def previous_line(refs: Mapping[str, str], line: str, remote: str) -> str | None:
    """The line of the newest upstream version before that of `line`; None if there is none."""
    version = line_version(line)
    if version is None:
        raise ValueError(f"not a line: {line}")
    prefixes = ("refs/heads/", f"refs/remotes/{remote}/")
    names = {ref.removeprefix(prefix) for ref in refs for prefix in prefixes if ref.startswith(prefix)}
    older: list[tuple[Version, str]] = [
        (found, name)
        for name in names
        if name.startswith(LINE_PREFIX) and (found := line_version(name)) is not None and found < version
    ]
    return max(older)[1] if older else None


def _shown(tag: str) -> str:
    return visible(tag, SUBJECT_LIMIT)
