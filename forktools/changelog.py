"""Release notes, generated from the commits of each release line.

A release lists the commits added since the release before it on its line. The first release of a line lists
those since upstream's tag, and separates the commits that the line before already has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools.commit_matching import CARRIED, compare
from forktools.git_repository import RepositoryError, ask, commit_id, is_ancestor, references
from forktools.policy import parse_subject, version_name
from forktools.release_line import CommitKind, ReleaseLine, accepted_differences, dropped_reasons, line_at
from forktools.remembered_release_lines import known_lines, previous_line, recall
from forktools.sanitize import decode, markdown_words
from forktools.tags import is_of_line, parse_tag, releases

if TYPE_CHECKING:
    from collections.abc import Sequence

    import git

    from forktools.release_line import LineCommit

_SECTIONS = {"feat": "Features", "fix": "Fixes", "perf": "Performance", "revert": "Reverts"}
_OTHERS = "Other changes"


@dataclass(frozen=True, slots=True)
class Release:
    """One release: its tag (empty: the unreleased commits of the line), its date, the release before it, the
    commits it added, the commits that the line before has, and the commits left out or accepted with a
    difference, each with the reason."""

    tag: str
    line: str
    commit: str
    day: str
    since: str
    added: tuple[LineCommit, ...]
    carried: tuple[LineCommit, ...] = ()
    carried_from: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    accepted: tuple[tuple[str, str], ...] = ()


def of_tag(repo: git.Repo, tag: str, remote: str) -> Release:
    """The release `tag`. Raises RepositoryError when it is no release tag of a line in this repository."""
    parsed = parse_tag(tag)
    if parsed is None:
        raise RepositoryError(f"{tag} is no release tag", "Give one as vX.Y.Z.vcluster.N.")
    found = next((one for one in of_line(repo, parsed.line, remote) if one.tag == tag), None)
    if found is None:
        raise RepositoryError(f"{tag} is not a release of {parsed.line}", "Run `forktools check-tag`.")
    return found


def of_line(repo: git.Repo, branch: str, remote: str) -> list[Release]:
    """The releases of a line, the newest first; the unreleased commits, if any, come before them.

    A tag that was put on another branch by mistake is skipped.
    """
    refs, upstream = references(repo), version_name(branch)
    line = recall(repo, branch, remote).line
    places = [
        (str(tag), commit)
        for tag, ref in releases(refs, upstream)
        if is_of_line(repo, refs, upstream, commit := commit_id(repo, ref, "the tag"), remote)
    ]
    if not places or not is_ancestor(repo, line.tip, places[-1][1]):
        places.append(("", line.tip))
    before = previous_line(repo, refs, branch, remote)
    known: set[str] = set()
    found: list[Release] = []
    for tag, commit in places:
        entries = line_at(repo, branch, commit).entries
        added = [entry for entry in entries if entry.commit.sha not in known]
        carried = (
            _carried(repo, before, line_at(repo, branch, commit), remote) if not known and before else set()
        )
        known |= {entry.commit.sha for entry in entries}
        if added or tag:
            since = found[-1].tag if found else ""
            found.append(_release(repo, tag, branch, commit, since, added, carried, before or ""))
    return found[::-1]


def of_all(repo: git.Repo, remote: str) -> list[Release]:
    """Every release of every line, the newest line first."""
    lines = known_lines(repo, references(repo), remote)
    return [release for branch in reversed(lines) for release in of_line(repo, branch, remote)]


def text(found: Sequence[Release], *, whole: bool) -> str:
    """Markdown; `whole` adds a heading for the file and one for each release, as CHANGELOG.md has them."""
    parts = ["# Changelog\n\nWritten by `forktools changelog`; do not edit it.\n"] if whole else []
    parts += [_markdown(release, whole) for release in found]
    return "\n".join(parts)


def _carried(repo: git.Repo, before: str, line: ReleaseLine, remote: str) -> set[str]:
    fates = compare(repo, recall(repo, before, remote).owed, line).fates
    return {commit.sha for fate in fates if fate.state in CARRIED for commit in fate.by}


def _release(
    repo: git.Repo,
    tag: str,
    branch: str,
    commit: str,
    since: str,
    added: Sequence[LineCommit],
    carried: set[str],
    before: str,
) -> Release:
    day = decode(ask(repo, "show", "--no-patch", "--format=%cs", commit)).strip()
    messages = [entry.commit.message for entry in added]
    return Release(
        tag,
        branch,
        commit,
        day,
        since,
        tuple(one for one in added if one.commit.sha not in carried and one.kind is not CommitKind.RECORD),
        tuple(one for one in added if one.commit.sha in carried),
        before if carried else "",
        tuple(pair for message in messages for pair in dropped_reasons(message).items()),
        tuple((sha, why) for message in messages for (sha, _), why in accepted_differences(message).items()),
    )


def _markdown(release: Release, whole: bool) -> str:
    upstream = version_name(release.line)
    title = release.tag or f"{upstream}, not released yet"
    lines = [f"## {title} ({release.day})", ""] if whole else []
    count = len(release.carried)
    carried = (
        f" and {count} commit{'s' * (count > 1)} of {version_name(release.carried_from)}" if count else ""
    )
    start = f"Since {release.since}" if release.since else f"Upstream's {upstream}{carried}"
    lines += [f"{start}:" if release.added else f"{start}, nothing else.", ""]
    sections: dict[str, list[str]] = {name: [] for name in (*_SECTIONS.values(), _OTHERS)}
    for entry in release.added:
        subject = parse_subject(entry.commit.subject)
        said = subject.text if subject else entry.commit.subject
        breaking = "**Breaking:** " if subject and subject.breaking else ""
        name = _SECTIONS.get(subject.type, _OTHERS) if subject else _OTHERS
        sections[name].append(f"- {breaking}{markdown_words(said)} ({entry.commit.short})")
    for name, listed in sections.items():
        if listed:
            lines += [f"### {name}", "", *listed, ""]
    for name, pairs in (("Left out", release.left_out), ("Changed on the way", release.accepted)):
        if pairs:
            lines += [f"### {name}", "", *(f"- {sha[:12]}: {markdown_words(why)}" for sha, why in pairs), ""]
    return "\n".join(lines)
