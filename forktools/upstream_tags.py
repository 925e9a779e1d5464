"""Upstream's tags, fetched into a namespace of their own: `refs/upstream/tags/`.

A fork's clone has none of upstream's tags, and may have tags of the same names on other commits, which git
would refuse to overwrite. In a separate namespace a name always means upstream's commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forktools.git_repository import RepositoryError, references, run
from forktools.policy import line_version
from forktools.sanitize import visible
from forktools.settings import current
from forktools.tags import UPSTREAM_TAGS, upstream_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    import git


@dataclass(frozen=True, slots=True)
class Fetched:
    """Upstream's releases in the repository, the new ones, and the fork's tags that only share a name."""

    url: str
    releases: int
    new: tuple[str, ...]
    moved: tuple[str, ...]
    differing: tuple[str, ...]


def fetch(repo: git.Repo, url: str) -> Fetched:
    """Fetches upstream's version tags and the commits they name. Raises RepositoryError when that fails.

    If lines are cut from tags on the trunk, there is nothing to fetch.
    """
    before = references(repo)
    if current().cuts_from_trunk and not url:
        return Fetched("", len(upstream_tags(before)), (), (), ())
    url = url or current().upstream
    refspec = f"+refs/tags/v*:{UPSTREAM_TAGS}v*"
    status, _, complaint = run(repo, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", url, refspec)
    if status:
        said = complaint.strip().splitlines()
        raise RepositoryError(
            f"upstream's tags could not be fetched from {visible(url)}: {said[-1] if said else 'no message'}",
            "Check the address (--url) and the network.",
        )
    after = references(repo)
    names = [name.removeprefix(UPSTREAM_TAGS) for name in after if name.startswith(UPSTREAM_TAGS)]
    return Fetched(
        url,
        sum(line_version(name) is not None for name in names),
        tuple(name for name in names if UPSTREAM_TAGS + name not in before),
        tuple(name for name in names if _moved(before, after, UPSTREAM_TAGS + name)),
        tuple(name for name in names if _differs(repo, after, name)),
    )


def _moved(before: Mapping[str, str], after: Mapping[str, str], ref: str) -> bool:
    return ref in before and before[ref] != after[ref]


def _differs(repo: git.Repo, refs: Mapping[str, str], name: str) -> bool:
    """Whether the repository's own tag of this name is on another commit than upstream's."""
    own, upstream = f"refs/tags/{name}", UPSTREAM_TAGS + name
    if own not in refs or refs[own] == refs[upstream]:
        return False
    _, commits, _ = run(repo, "rev-parse", f"{own}^{{commit}}", f"{upstream}^{{commit}}")
    return len(set(commits.split())) != 1
