"""Release tags of the fork: vX.Y.Z.vcluster.N, the Nth release of the line release/vcluster/vX.Y.Z."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools.commits import patch_ids, read_range
from forktools.git_repository import (
    RepositoryError,
    branch_tip,
    commit_id,
    is_ancestor,
    references,
    require_whole_history,
)
from forktools.merge_changes import merge_changes
from forktools.policy import Branch, Finding, Level, Rule, judge, line_version, version_name
from forktools.sanitize import SUBJECT_LIMIT, visible
from forktools.settings import current
from forktools.signatures import TAG_UNSIGNED, judge_commits, judge_tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import git

# Upstream's tags, separate from the fork's own, because a fork can hold its own tag `v0.16.3`.
UPSTREAM_TAGS = "refs/upstream/tags/"

_PART = r"(?:0|[1-9][0-9]{{0,8}})"  # upstream's versions have no leading zero
_TAG = rf"(v{_PART}\.{_PART}\.{_PART}){{}}([0-9]{{{{1,9}}}})"

TAG_SCHEME = Rule(
    "tag-scheme", "A release tag is {tag}.", "Name it as `forktools next-tag --line vX.Y.Z` says."
)
LINE_MISSING = Rule(
    "line-missing",
    "The line a tag belongs to, {line}vX.Y.Z, exists.",
    "Cut the line with `forktools replay apply` and push it before the tag.",
)
TAG_NOT_ON_LINE = Rule(
    "tag-not-on-line",
    "A release tag names a commit that its line has added to upstream's tag.",
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
TAG_HOLE = Rule(
    "tag-hole",
    "A number is missing among a line's earlier releases.",
    "Nothing, if its tag was deleted on purpose: numbers are not used again.",
    Level.WARNING,
)
TAG_ORDER = Rule(
    "tag-order",
    "A release builds on the one before it.",
    "Tag a commit that holds the release before it; if the line was rewritten, bring back what was released.",
)
TAG_REWRITTEN = Rule(
    "tag-line-rewritten",
    "A line is not rewritten between two releases.",
    "Nothing, if it was rewritten on purpose: each patch that was released is carried.",
    Level.WARNING,
)
TAG_ASTRAY = Rule(
    "tag-astray",
    "Every release tag of a line is on it.",
    "Delete the tag that is not, if nobody uses its release.",
    Level.WARNING,
)
TAG_BEHIND = Rule(
    "tag-behind-tip",
    "A release normally takes in all of its line.",
    "Tag the tip, unless the newer commits are left out on purpose.",
    Level.WARNING,
)
BASE_TAG_OFF_TRUNK = Rule(
    "base-tag-off-trunk",
    "A base tag vX.Y.Z stands on the trunk, where lines are cut from it.",
    "Tag the commit of the trunk that lines of this version are cut from: delete the tag, and set it there.",
)
TAG_RULES = (
    TAG_UNSIGNED,
    BASE_TAG_OFF_TRUNK,
    TAG_SCHEME,
    LINE_MISSING,
    TAG_NOT_ON_LINE,
    LINE_NOT_FROM_TAG,
    TAG_NUMBER,
    TAG_HOLE,
    TAG_ORDER,
    TAG_REWRITTEN,
    TAG_ASTRAY,
    TAG_BEHIND,
)


@dataclass(frozen=True, slots=True)
class ForkTag:
    """A release tag in its parts: upstream's tag and the number."""

    upstream: str
    number: int

    @property
    def line(self) -> str:
        return current().line_prefix + self.upstream

    def __str__(self) -> str:
        return f"{self.upstream}{current().tag_middle}{self.number}"


@dataclass(frozen=True, slots=True)
class TagVerdict:
    """The result of `check-tag`. `exists` is false if the line's tip was checked in place of the tag; the
    fields after it are empty when only the name was checked."""

    tag: str
    findings: tuple[Finding, ...]
    line: str = ""
    exists: bool = False
    commit: str = ""
    behind: int = 0


def parse_tag(tag: str) -> ForkTag | None:
    """The parts of a release tag; None if it does not follow the scheme."""
    match = re.fullmatch(_TAG.format(re.escape(current().tag_middle)), tag)
    return ForkTag(match[1], int(match[2])) if match else None


def commit_of_upstream_tag(repo: git.Repo, refs: Mapping[str, str], tag: str) -> str:
    """The commit of upstream's `tag`, from `refs/upstream/tags/`, or of the base tag on the trunk.

    If upstream's tags were never fetched, the repository's own tags are used, as in upstream's clones and in
    small forks. Raises RepositoryError when the tag does not exist.
    """
    ref = upstream_tags(refs).get(tag)
    if ref is not None:
        return commit_id(repo, ref, "the upstream tag")
    if current().cuts_from_trunk:
        raise RepositoryError(
            f"there is no base tag {tag} in this repository",
            "Run `git fetch --tags`, or tag the commit of the trunk that the line is to be cut from.",
        )
    raise RepositoryError(
        f"upstream's tag {tag} is not in this repository",
        "Run `forktools upstream fetch`.",
    )


def upstream_tags(refs: Mapping[str, str]) -> dict[str, str]:
    """The references of upstream's tags, or of the base tags on the trunk, by the tags' names."""
    fetched = not current().cuts_from_trunk and any(name.startswith(UPSTREAM_TAGS) for name in refs)
    place = UPSTREAM_TAGS if fetched else "refs/tags/"
    names = (name for name in refs if name.startswith(place))
    return {tag: name for name in names if line_version(tag := name.removeprefix(place)) and "/" not in tag}


def is_base_tag(tag: str) -> bool:
    """Whether `tag` marks a commit of the trunk that a line is cut from."""
    return current().cuts_from_trunk and re.fullmatch(r"v[0-9]+(\.[0-9]+){2}", tag) is not None


def has_upstream_tag(refs: Mapping[str, str], tag: str) -> bool:
    """Whether upstream's `tag` exists in the repository."""
    return tag in upstream_tags(refs)


def is_foreign(refs: Mapping[str, str], tag: str) -> bool:
    """Whether upstream, whose tags have been fetched, has no tag of this name."""
    fetched = any(name.startswith(UPSTREAM_TAGS) for name in refs) and not current().cuts_from_trunk
    return fetched and not has_upstream_tag(refs, tag)


def check_name(tag: str) -> TagVerdict:
    """Whether `tag` follows the scheme."""
    parsed = parse_tag(tag)
    if is_base_tag(tag):
        return TagVerdict(tag, ())
    if parsed is None:
        return TagVerdict(tag, (Finding(TAG_SCHEME, f"{_shown(tag)} is not {current().tag}"),))
    if str(parsed) != tag:
        return TagVerdict(tag, (Finding(TAG_NUMBER, f"{tag} is not written as {parsed}"),), parsed.line)
    return TagVerdict(tag, (), parsed.line)


def check_tag(repo: git.Repo, tag: str, remote: str) -> TagVerdict:
    """Whether `tag` may be released; for a tag that does not exist yet, whether the line's tip may get it.

    Raises RepositoryError on a shallow clone, or when upstream's tag has not been fetched.
    """
    parsed = parse_tag(tag)
    if parsed is None and not is_base_tag(tag):
        return check_name(tag)
    require_whole_history(repo)
    refs = references(repo)
    if parsed is None:
        return _check_base_tag(repo, refs, tag, remote)
    tip = branch_tip(repo, refs, parsed.line, remote)
    if tip is None:
        return TagVerdict(tag, (Finding(LINE_MISSING, f"there is no branch {parsed.line}"),), parsed.line)
    ref = f"refs/tags/{tag}"
    exists = ref in refs
    commit = commit_id(repo, ref, "the tag") if exists else tip
    wrong_line = [*_check_line(repo, refs, parsed, tip, remote)]
    findings = [*_check_number(repo, refs, parsed, tag, commit), *wrong_line]
    base = commit_of_upstream_tag(repo, refs, parsed.upstream)
    behind = 0
    if not is_ancestor(repo, commit, tip):
        findings.append(Finding(TAG_NOT_ON_LINE, f"{tag} is not on {parsed.line}", commit))
    elif not wrong_line and (is_ancestor(repo, commit, base) or not is_ancestor(repo, base, commit)):
        place = "upstream's tag itself" if commit == base else "no commit of the line's own"
        findings.append(Finding(TAG_NOT_ON_LINE, f"{tag} is {place}", commit))
    else:
        if not wrong_line:
            findings += _check_order(repo, refs, parsed, commit, base, remote)
            findings += _check_commits(repo, base, commit)
            findings += judge_commits(repo, read_range(repo, [commit], [base]))
        behind = len(read_range(repo, [tip], [commit]))
        if behind:
            findings.append(
                Finding(
                    TAG_BEHIND, f"{tag} is {behind} commit{'s' * (behind > 1)} behind {parsed.line}", commit
                )
            )
    findings += judge_tag(repo, tag)
    return TagVerdict(tag, tuple(findings), parsed.line, exists, commit, behind)


def _check_base_tag(repo: git.Repo, refs: Mapping[str, str], tag: str, remote: str) -> TagVerdict:
    """Whether a base tag is on a trunk; for one that does not exist yet, where it would be."""
    trunks = [(name, tip) for name in current().trunks if (tip := branch_tip(repo, refs, name, remote))]
    if not trunks:
        raise RepositoryError(
            f"there is no {' or '.join(current().trunks)}, neither here nor at {visible(remote)}",
            "Run `git fetch` (`fetch-depth: 0` in CI).",
        )
    ref = f"refs/tags/{tag}"
    commit = commit_id(repo, ref, "the tag") if ref in refs else trunks[0][1]
    for name, tip in trunks:
        if is_ancestor(repo, commit, tip):
            behind = len(read_range(repo, [tip], [commit]))
            return TagVerdict(tag, tuple(judge_tag(repo, tag)), name, ref in refs, commit, behind)
    problem = Finding(
        BASE_TAG_OFF_TRUNK, f"{tag} is not on {' or '.join(name for name, _ in trunks)}", commit
    )
    return TagVerdict(tag, (problem,), trunks[0][0], True, commit)


def next_tag(repo: git.Repo, line: str, remote: str) -> ForkTag:
    """The tag of a line's next release.

    Raises RepositoryError when the line or upstream's tag does not exist.
    """
    refs = references(repo)
    upstream = version_name(line)
    if branch_tip(repo, refs, line, remote) is None:
        raise RepositoryError(f"there is no branch {visible(line)}", f"git fetch {visible(remote)} --tags")
    commit_of_upstream_tag(repo, refs, upstream)  # checked because a clone without tags would get number 0
    return first_free_tag(refs, line)


def first_free_tag(refs: Mapping[str, str], line: str) -> ForkTag:
    """The tag after the last one of a line; the line need not exist."""
    upstream = version_name(line)
    return ForkTag(upstream, max(_numbers(refs, upstream), default=-1) + 1)


def _numbers(refs: Mapping[str, str], upstream: str) -> dict[int, str]:
    """The numbers in use on a line, each with its reference."""
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
    earlier = max((number for number in taken if number < parsed.number), default=None)
    below = -1 if earlier is None else earlier
    if parsed.number > below + 1:
        yield Finding(
            TAG_NUMBER, f"{tag} leaves out {_listed(parsed, range(below + 1, parsed.number))}", commit
        )
    elif parsed.number not in taken and max(taken, default=-1) > parsed.number:
        yield Finding(TAG_NUMBER, f"{tag} comes after {ForkTag(parsed.upstream, max(taken))}", commit)
    if holes := [number for number in range(below) if number not in taken]:
        yield Finding(TAG_HOLE, f"there is no {_listed(parsed, holes)}", commit)


def _check_order(
    repo: git.Repo, refs: Mapping[str, str], parsed: ForkTag, commit: str, base: str, remote: str
) -> Iterator[Finding]:
    """Checks that a release builds on the newest one before it or, on a rewritten line, carries its patches.

    An earlier tag that was never on the line (put on the trunk by mistake) is skipped.
    """
    tag, taken = str(parsed), _numbers(refs, parsed.upstream)
    for number in sorted((number for number in taken if number < parsed.number), reverse=True):
        name, earlier = ForkTag(parsed.upstream, number), commit_id(repo, taken[number], "the tag")
        if is_ancestor(repo, earlier, commit):
            return
        if is_ancestor(repo, commit, earlier):
            yield Finding(TAG_ORDER, f"{tag} is older than {name}", commit)
            return
        released = read_range(repo, [earlier], [base])
        if not is_of_line(repo, refs, parsed.upstream, earlier, remote):
            yield Finding(TAG_ASTRAY, f"{name} is not on the line, so {tag} cannot build on it", earlier)
            continue
        carried = set(patch_ids(repo, read_range(repo, [commit], [base])).values())
        patches = patch_ids(repo, released)
        if lost := [one for one in released if one.sha in patches and patches[one.sha] not in carried]:
            yield Finding(
                TAG_ORDER,
                f"{tag} lacks what {name} released; here is the first",
                lost[0].sha,
                lost[0].subject,
            )
        else:
            yield Finding(TAG_REWRITTEN, f"{tag} carries {name} on a line that was rewritten", commit)
        return


def is_of_line(repo: git.Repo, refs: Mapping[str, str], upstream: str, tip: str, remote: str) -> bool:
    """Whether a release belongs to its line: cut from upstream's tag, with commits of the fork only."""
    base = commit_of_upstream_tag(repo, refs, upstream)
    if not is_ancestor(repo, base, tip) or any(_check_commits(repo, base, tip)):
        return False
    alone = read_range(repo, [tip], [base, *_elsewhere(refs, upstream, remote)])
    return len(alone) == len(read_range(repo, [tip], [base]))


def releases(refs: Mapping[str, str], upstream: str) -> list[tuple[ForkTag, str]]:
    """The release tags of a line, oldest first, each with its reference."""
    return [(ForkTag(upstream, number), ref) for number, ref in sorted(_numbers(refs, upstream).items())]


def _listed(parsed: ForkTag, numbers: Sequence[int]) -> str:
    shown = ", ".join(str(ForkTag(parsed.upstream, number)) for number in numbers[:3])
    return f"{shown} and more" if len(numbers) > 3 else shown


def _check_commits(repo: git.Repo, base: str, commit: str) -> Iterator[Finding]:
    """The findings for every commit that the release adds to upstream's tag, by the rules of a line."""
    added = read_range(repo, [commit], [base])
    merges = merge_changes(repo, added)
    for one in added:
        yield from judge(Branch.LINE, one, (), merges.get(one.sha))


def _check_line(
    repo: git.Repo, refs: Mapping[str, str], parsed: ForkTag, tip: str, remote: str
) -> Iterator[Finding]:
    base = commit_of_upstream_tag(repo, refs, parsed.upstream)
    if not is_ancestor(repo, base, tip):
        yield Finding(LINE_NOT_FROM_TAG, f"{parsed.line} does not contain {parsed.upstream}", base)
        return
    added = read_range(repo, [tip], [base])
    alone = {
        commit.sha for commit in read_range(repo, [tip], [base, *_elsewhere(refs, parsed.upstream, remote)])
    }
    if shared := [commit for commit in added if commit.sha not in alone]:
        yield Finding(
            LINE_NOT_FROM_TAG,
            f"{parsed.line} holds {len(shared)} commit{'s' * (len(shared) > 1)} of the trunk or of another "
            f"upstream release, so it was not cut from {parsed.upstream}; here is the first",
            shared[0].sha,
            shared[0].subject,
        )


def _elsewhere(refs: Mapping[str, str], upstream: str, remote: str) -> Iterator[str]:
    """The references that a line must not share commits with: the trunk and upstream's other releases."""
    trunks = [
        place + trunk for trunk in current().trunks for place in ("refs/heads/", f"refs/remotes/{remote}/")
    ]
    yield from (refs[name] for name in trunks if name in refs)
    yield from (refs[name] for tag, name in upstream_tags(refs).items() if tag != upstream)


def _shown(tag: str) -> str:
    return visible(tag, SUBJECT_LIMIT)
