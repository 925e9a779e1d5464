"""Release lines, with commits that their branches have lost but the replay rule still covers.

A branch can be deleted or pushed back to its base. The commits of its release tags, and of
`refs/forktools/lines/vX.Y.Z` (written by `replay verify --remember`), are remembered and reveal the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forktools.commit_matching import MatchState, counterparts
from forktools.git_repository import ask, branch_tip, commit_id, is_ancestor, references
from forktools.policy import Finding, Level, Rule, line_version, version_name
from forktools.release_line import ReleaseLine, line_at, read_line
from forktools.settings import current
from forktools.tags import has_upstream_tag, is_foreign, is_of_line, parse_tag, releases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import git

    from forktools.release_line import LineCommit

LINES = "refs/forktools/lines/"

LINE_LOST = Rule(
    "line-lost",
    "A line keeps what it has released, and what it held when it was last verified.",
    "Bring the commit back, or record why it is left out (`forktools replay drop`); a line that was never "
    f"released is forgotten by `git push origin --delete {LINES}vX.Y.Z`.",
)
LINE_GONE = Rule(
    "line-gone",
    "A line that was released has a branch.",
    "Push it again from its last release, if it was not ended on purpose.",
    Level.WARNING,
)
LINE_FOREIGN = Rule(
    "line-foreign",
    "A line is named after a release of upstream's.",
    "Rename or delete the branch; no line is compared with it.",
    Level.WARNING,
)
MEMORY_RULES = (LINE_LOST, LINE_GONE, LINE_FOREIGN)


@dataclass(frozen=True, slots=True)
class RememberedLine:
    """A line, and the commits that its branch has lost."""

    line: ReleaseLine
    lost: tuple[LineCommit, ...]
    findings: tuple[Finding, ...]

    @property
    def owed(self) -> ReleaseLine:
        """The line as others have to carry it: with the lost commits."""
        return replace(self.line, entries=self.line.entries + self.lost)


def known_lines(repo: git.Repo, refs: Mapping[str, str], remote: str) -> list[str]:
    """The branches of all existing or remembered lines, the oldest upstream version first."""
    names, released = set(), set()
    for ref in refs:
        for prefix in ("refs/heads/", f"refs/remotes/{remote}/"):
            if ref.startswith(prefix + current().line_prefix):
                names.add(ref.removeprefix(prefix))
        if ref.startswith(LINES):
            names.add(current().line_prefix + ref.removeprefix(LINES))
        tag = parse_tag(ref.removeprefix("refs/tags/"))
        if tag is not None and ref.startswith("refs/tags/") and has_upstream_tag(refs, tag.upstream):
            released.add(tag.line)
    names |= {line for line in released - names if any(_places(repo, refs, line, remote))}
    versions = {name: version for name in names if (version := line_version(name)) is not None}
    return sorted(versions, key=versions.__getitem__)


def previous_line(repo: git.Repo, refs: Mapping[str, str], line: str, remote: str) -> str | None:
    """The line of the newest upstream version before that of `line`; None if there is none."""
    version = line_version(line)
    if version is None:
        raise ValueError(f"not a line: {line}")
    older = [
        name
        for name in known_lines(repo, refs, remote)
        if (line_version(name) or version) < version and not is_foreign(refs, version_name(name))
    ]
    return older[-1] if older else None


def recall(repo: git.Repo, branch: str, remote: str) -> RememberedLine:
    """Reads a line with its remembered commits.

    Raises RepositoryError on a shallow clone, without upstream's tag, or when the line is unknown.
    """
    refs = references(repo)
    places = dict(_places(repo, refs, branch, remote))
    if places and branch_tip(repo, refs, branch, remote) is None:
        name, tip = next(iter(places.items()))
        line = line_at(repo, branch, tip)
        findings = [Finding(LINE_GONE, f"{branch} has no branch; {name} stands for it", tip)]
    else:
        line, findings = read_line(repo, branch, remote), []
    lost: list[LineCommit] = []
    for name, tip in places.items():
        if is_ancestor(repo, tip, line.tip):
            continue
        known = {entry.commit.sha for entry in lost}
        for fate in counterparts(repo, line_at(repo, branch, tip), line):
            if fate.state in (MatchState.MISSING, MatchState.CHANGED) and fate.entry.commit.sha not in known:
                commit = fate.entry.commit
                message = f"{branch} lacks it, though {name} has it"
                findings.append(Finding(LINE_LOST, message, commit.sha, commit.subject))
                lost.append(fate.entry)
    return RememberedLine(line, tuple(lost), tuple(findings))


def remember(repo: git.Repo, line: ReleaseLine) -> None:
    """Stores the current commits of the line."""
    ask(repo, "update-ref", "-m", "forktools: verified", LINES + line.upstream, line.tip)


def _places(repo: git.Repo, refs: Mapping[str, str], branch: str, remote: str) -> Iterator[tuple[str, str]]:
    """The references by which a line is remembered, the newest first, each with its commit.

    A release tag that was put on another branch by mistake is left out.
    """
    upstream = version_name(branch)
    if LINES + upstream in refs:
        yield LINES + upstream, refs[LINES + upstream]
    for tag, ref in reversed(releases(refs, upstream)):
        commit = commit_id(repo, ref, "the tag")
        if is_of_line(repo, refs, upstream, commit, remote):
            yield str(tag), commit
