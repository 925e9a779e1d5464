"""The `check-pr` command: the commits that a pull request adds, checked against the policy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.commits import Commit, changed_paths, read_range
from forktools.git_repository import (
    RepositoryError,
    commit_id,
    is_ancestor,
    references,
    require_whole_history,
)
from forktools.merge_changes import merge_changes
from forktools.policy import (
    SETTINGS_CHANGED,
    SETTINGS_UNREADABLE,
    Branch,
    Finding,
    branch_kind,
    is_fork_commit,
    judge,
)
from forktools.sanitize import visible
from forktools.settings import FILES, differing
from forktools.signatures import judge_commits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import git

    from forktools.commits import Change


_FORCE_PUSHED = (
    "Fetch it first (`git fetch origin refs/pull/NUMBER/head`, `fetch-depth: 0` in CI). If the pull request "
    "was force-pushed meanwhile, this commit is gone: the run of its new head judges that."
)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """The base branch of a pull request and the two ends of what it adds (any revision; empty: found here).

    A squash merge makes `title` the subject of the resulting commit.
    """

    base_ref: str
    base: str = ""
    head: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class PullRequestVerdict:
    """The result of `check-pr`."""

    base_ref: str
    kind: Branch
    base_sha: str
    head_sha: str
    commits: int
    findings: tuple[Finding, ...]


def from_environment(environment: Mapping[str, str] = os.environ) -> PullRequest | None:
    """The pull request a GitHub Actions job runs for; None outside one.

    Raises RepositoryError when the event's file cannot be read.
    """
    if environment.get("GITHUB_EVENT_NAME") not in ("pull_request", "pull_request_target"):
        return None
    path = environment.get("GITHUB_EVENT_PATH", "")
    try:
        event = json.loads(Path(path).read_text(encoding="utf-8"))
        pull = event["pull_request"]
        base, head = pull["base"], pull["head"]
        title = str(pull.get("title") or "")
        return PullRequest(str(base["ref"]), str(base["sha"]), str(head["sha"]), title)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"the pull request's event cannot be read from GITHUB_EVENT_PATH ({visible(path)}): {error!r}",
            "Give --base-ref, --base-sha and --head-sha.",
        ) from error


def check(repo: git.Repo, pull: PullRequest, remote: str) -> PullRequestVerdict:
    """Judges every commit of the head that is not in the base branch.

    Raises RepositoryError on a shallow clone, when the base or the head is not in the repository, or when the
    base is not in the branch that the pull request goes into.
    """
    require_whole_history(repo)
    base_ref = pull.base_ref.removeprefix("refs/heads/").removeprefix(f"{remote}/")
    head_sha = commit_id(repo, pull.head or "HEAD", "the head", _FORCE_PUSHED)
    tip = _base_branch(repo, base_ref, remote)
    base_sha = _base(repo, pull, tip, head_sha, base_ref)
    kind = branch_kind(base_ref)
    # Commits that are in the branch by now are not added by the pull request, whatever its base was. A head
    # that is already in it (merged, or pushed past the check) is judged from its base.
    known = base_sha if is_ancestor(repo, head_sha, tip) else tip
    commits = read_range(repo, [head_sha], [known])
    findings: list[Finding] = []
    if kind is not Branch.OTHER:
        changes = changed_paths(repo, commits) if kind is Branch.TRUNK else {}
        merges = merge_changes(repo, commits)
        for commit in commits:
            findings += judge(kind, commit, changes.get(commit.sha, ()), merges.get(commit.sha))
        if kind is Branch.TRUNK and commits:
            findings += _judge_settings(repo, head_sha, commits)
        ours = [commit for commit in commits if kind is Branch.LINE or is_fork_commit(commit)]
        findings += judge_commits(repo, ours)
        if pull.title and commits and [commit.subject for commit in commits] != [pull.title]:
            own = [change for merge in merges.values() for change in merge.all]
            union = [*own, *(change for found in changes.values() for change in found)]
            findings += _judge_title(kind, pull.title, head_sha, union)
    return PullRequestVerdict(base_ref, kind, base_sha, head_sha, len(commits), tuple(findings))


def _judge_settings(repo: git.Repo, head: str, commits: Sequence[Commit]) -> Iterator[Finding]:
    """The settings findings of the branch after the pull request, if one of its commits touches settings."""
    touched = {change.path for found in changed_paths(repo, commits).values() for change in found}
    own = {change.path for found in merge_changes(repo, commits).values() for change in found.all}
    if not (touched | own) & {*FILES}:
        return
    try:
        names = differing(repo, head)
    except RepositoryError as error:
        yield Finding(SETTINGS_UNREADABLE, f"{error.problem}. {error.fix}".rstrip(". "), head)
    else:
        if names:
            yield Finding(SETTINGS_CHANGED, f"changes {', '.join(names)}", head)


def _judge_title(kind: Branch, title: str, head: str, changes: Iterable[Change]) -> Iterator[Finding]:
    """The title's findings, as the subject of one commit that changes every path the commits do."""
    squashed = Commit(head, (head,), title, title)
    paths = {change.path: change for change in changes}
    for finding in judge(kind, squashed, [paths[path] for path in sorted(paths)], None):
        yield replace(finding, message=f"as the title, the subject of a squash merge: {finding.message}")


def _base(repo: git.Repo, pull: PullRequest, tip: str, head: str, base_ref: str) -> str:
    """The commit that the pull request names as its base, checked against the branch it goes into.

    A request opened against another branch keeps that branch's commit. Judging from there would miss commits
    that are new to this branch.
    """
    if not pull.base:
        return tip
    base = commit_id(repo, pull.base, "the base")
    if not is_ancestor(repo, base, tip):
        raise RepositoryError(
            f"the base {base[:12]} is not in {visible(base_ref)}",
            "Fetch the branch; if the pull request was retargeted, take its base from the event anew.",
        )
    if is_ancestor(repo, head, base):
        raise RepositoryError(
            f"the head {head[:12]} is in {visible(base_ref)} already: there is nothing to judge",
            "Give the pull request's own head with --head-sha.",
        )
    return base


def _base_branch(repo: git.Repo, name: str, remote: str) -> str:
    """The tip of a branch: the remote's if known, because a pull request is opened against that."""
    refs = references(repo)
    for ref in (f"refs/remotes/{remote}/{name}", f"refs/heads/{name}"):
        if ref in refs:
            return refs[ref]
    raise RepositoryError(
        f"there is no branch {visible(name)}, neither here nor at {visible(remote)}",
        f"Run `git fetch {visible(remote)}`, or give --base-sha.",
    )
