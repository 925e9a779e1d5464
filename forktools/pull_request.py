"""`check-pr`: which commits a pull request adds, and what the policy says to each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.commits import changed_paths, read_range
from forktools.merges import merge_changes
from forktools.policy import Branch, Finding, branch_kind, judge
from forktools.repository import RepositoryError, commit_id, references, require_whole_history
from forktools.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    import git


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Where a pull request goes and the two ends of what it adds (any revision; empty: to be worked out)."""

    base_ref: str
    base: str = ""
    head: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `check-pr` found."""

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
        return PullRequest(str(pull["base"]["ref"]), str(pull["base"]["sha"]), str(pull["head"]["sha"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"the pull request's event cannot be read from GITHUB_EVENT_PATH ({visible(path)}): {error!r}",
            "Give --base-ref, --base-sha and --head-sha.",
        ) from error


def check(repo: git.Repo, pull: PullRequest, remote: str) -> Verdict:
    """Judges every commit of base..head.

    Raises RepositoryError on a shallow clone, or when the base or the head is not here.
    """
    require_whole_history(repo)
    base_ref = pull.base_ref.removeprefix("refs/heads/").removeprefix(f"{remote}/")
    base_sha = commit_id(repo, pull.base or _base_branch(repo, base_ref, remote), "the base")
    head_sha = commit_id(repo, pull.head or "HEAD", "the head")
    kind = branch_kind(base_ref)
    commits = read_range(repo, [head_sha], [base_sha])
    findings: list[Finding] = []
    if kind is not Branch.OTHER:
        changes = changed_paths(repo, commits) if kind is Branch.TRUNK else {}
        merges = merge_changes(repo, commits)
        for commit in commits:
            findings += judge(kind, commit, changes.get(commit.sha, ()), merges.get(commit.sha))
    return Verdict(base_ref, kind, base_sha, head_sha, len(commits), tuple(findings))


def _base_branch(repo: git.Repo, name: str, remote: str) -> str:
    """The commit a branch is at: at the remote if known, as a pull request is opened against that."""
    refs = references(repo)
    for ref in (f"refs/remotes/{remote}/{name}", f"refs/heads/{name}"):
        if ref in refs:
            return refs[ref]
    raise RepositoryError(
        f"there is no branch {visible(name)}, neither here nor at {visible(remote)}",
        f"Run `git fetch {visible(remote)}`, or give --base-sha.",
    )
