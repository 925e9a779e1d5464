"""The fork's rules for commits, in one place: which subjects, which branches, which paths.

The fork keeps its own work apart from upstream's by the Conventional Commit scope `fork`. Product work of
the fork lives on release lines only (`release/vcluster/vX.Y.Z`, cut from upstream's tag vX.Y.Z); the trunk
carries upstream's history and the fork's tooling. `forktools policy show` prints what stands here.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forktools.commits import Change, Commit
    from forktools.merges import MergeChange

FORK_SCOPE = "fork"
PRODUCT_TYPES = ("feat", "fix", "perf", "refactor")
TOOLING_TYPES = ("docs", "style", "test", "build", "ci", "chore", "revert")
TYPES = PRODUCT_TYPES + TOOLING_TYPES

TRUNKS = ("master", "main")
LINE_PREFIX = "release/vcluster/"
ALLOWLIST = (
    ".github/**",
    "updatecli/**",
    "docs/**",
    "README.md",
    "CONTRIBUTING.md",
    "Dockerfile.release",
    ".golangci.json",
)

_SUBJECT = re.compile(rf"({'|'.join(TYPES)})(?:\(([a-z0-9/_-]+)\))?(!)?: (.+)")
# Written like the fork's scope, yet not it: wrong case, spaces, a second word, no space after the colon.
_NEARLY_FORK = re.compile(r"\s*\w+\s*\(\s*fork\b[^)]*\)", re.IGNORECASE)
_UPSTREAM_TAG = re.compile(r"v([0-9]+)\.([0-9]+)\.([0-9]+)")


class Level(enum.StrEnum):
    """An error breaks a rule (exit status 1); a warning asks for a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, what it says, and how to satisfy it."""

    name: str
    says: str
    fix: str
    level: Level = Level.ERROR


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken by one commit at one path (None: by its subject)."""

    rule: Rule
    message: str
    sha: str = ""
    subject: str = ""
    path: str | None = None


PRODUCT_ON_TRUNK = Rule(
    "product-on-trunk",
    f"On {' and '.join(TRUNKS)}, no product commit of the fork ({', '.join(PRODUCT_TYPES)} with the scope "
    f"{FORK_SCOPE}).",
    f"Open the pull request against the release line ({LINE_PREFIX}vX.Y.Z) that should carry it.",
)
PATH_OUTSIDE_ALLOWLIST = Rule(
    "path-outside-allowlist",
    f"On {' and '.join(TRUNKS)}, the fork's tooling commits change allowlisted paths only; a rename counts "
    "under both names.",
    "Move the change to a release line, or split the commit so that this one stays within the allowlist.",
)
MERGE_ON_TRUNK = Rule(
    "merge-changes-path",
    f"On {' and '.join(TRUNKS)}, a merge brings in its parents' work and nothing else outside the "
    "allowlist, save the resolution of a conflict.",
    "Redo the merge without the extra change, and make the change in a commit of its own.",
)
NOT_CONVENTIONAL = Rule(
    "not-conventional",
    f"On {LINE_PREFIX}v*, every subject is a Conventional Commit.",
    f"Reword it as `type({FORK_SCOPE}): text` (`git rebase -i`); types: {', '.join(TYPES)}.",
)
SCOPE_NOT_FORK = Rule(
    "scope-not-fork",
    f"On {LINE_PREFIX}v*, every commit has the scope {FORK_SCOPE}.",
    f"Reword it as `type({FORK_SCOPE}): text` (`git rebase -i`).",
)
MERGE_ON_LINE = Rule(
    "merge-not-fork",
    f"On {LINE_PREFIX}v*, a merge that changes anything itself is a commit like any other.",
    f"Rebase instead of merging, or give the merge a subject `type({FORK_SCOPE}): text`.",
)
NEARLY_FORK = Rule(
    "nearly-fork",
    f"A subject that looks like the scope {FORK_SCOPE} but is written otherwise is not a fork commit, so the "
    "rules above do not see it.",
    f"Write `type({FORK_SCOPE}): text` if the commit is the fork's.",
    Level.WARNING,
)
COMMIT_RULES = (
    PRODUCT_ON_TRUNK,
    PATH_OUTSIDE_ALLOWLIST,
    MERGE_ON_TRUNK,
    NOT_CONVENTIONAL,
    SCOPE_NOT_FORK,
    MERGE_ON_LINE,
    NEARLY_FORK,
)


class Branch(enum.Enum):
    """What a branch is to the policy."""

    TRUNK = "trunk"
    LINE = "release line"
    OTHER = "not gated"


@dataclass(frozen=True, slots=True)
class Subject:
    """A Conventional Commit subject, taken apart."""

    type: str
    scope: str
    breaking: bool
    text: str

    @property
    def is_fork(self) -> bool:
        return self.scope == FORK_SCOPE

    @property
    def is_product(self) -> bool:
        return self.is_fork and self.type in PRODUCT_TYPES


def parse_subject(subject: str) -> Subject | None:
    """The parts of a subject as the Conventional Commits specification 1.0.0 has them; None if it is none."""
    match = _SUBJECT.fullmatch(subject)
    return Subject(match[1], match[2] or "", bool(match[3]), match[4]) if match else None


def branch_kind(name: str) -> Branch:
    """What a branch is to the policy. Every `release/vcluster/v…` is gated, a misspelt version too."""
    if name in TRUNKS:
        return Branch.TRUNK
    return Branch.LINE if name.startswith(f"{LINE_PREFIX}v") else Branch.OTHER


def allowed_on_trunk(path: str) -> bool:
    """Whether a tooling commit of the fork may change `path` on the trunk."""
    return any(path.startswith(entry[:-2]) if entry.endswith("/**") else path == entry for entry in ALLOWLIST)


def line_version(name: str) -> Version | None:
    """The upstream version of a line's branch name or of an upstream tag; None if it is neither."""
    match = _UPSTREAM_TAG.fullmatch(name.removeprefix(LINE_PREFIX))
    return Version(".".join(match.groups())) if match else None


def line_branch(name: str) -> str | None:
    """The branch of the line given as `vX.Y.Z`, `X.Y.Z` or in full; None if `name` is no such thing."""
    short = name.removeprefix(LINE_PREFIX)
    short = short if short.startswith("v") else f"v{short}"
    return f"{LINE_PREFIX}{short}" if line_version(short) else None


def judge(
    base: Branch, commit: Commit, changes: Sequence[Change], merge: MergeChange | None
) -> Iterator[Finding]:
    """The rules that `commit` breaks in a pull request into a branch of kind `base`.

    `changes` are the paths of an ordinary commit, `merge` a merge's own; a merge that adds nothing of its
    own is judged by its subject alone.
    """
    if base is Branch.TRUNK:
        yield from _judge_on_trunk(commit, changes, merge)
    elif base is Branch.LINE:
        yield from _judge_on_line(commit, merge)


def _judge_on_trunk(
    commit: Commit, changes: Sequence[Change], merge: MergeChange | None
) -> Iterator[Finding]:
    subject = parse_subject(commit.subject)
    if subject is None or not subject.is_fork:
        if _NEARLY_FORK.match(commit.subject):
            yield _finding(NEARLY_FORK, commit, "looks like a fork commit, but is not written as one")
        for change in merge.unprompted if merge else ():
            if not allowed_on_trunk(change.path):
                yield _finding(MERGE_ON_TRUNK, commit, "the merge itself changes this path", change.path)
        return
    if subject.is_product:
        message = f"{subject.type}({FORK_SCOPE}) is a product commit of the fork"
        yield _finding(PRODUCT_ON_TRUNK, commit, message)
        return
    for change in merge.all if merge else changes:
        if not allowed_on_trunk(change.path):
            verb = {"A": "adds", "D": "removes"}.get(change.status, "changes")
            yield _finding(
                PATH_OUTSIDE_ALLOWLIST, commit, f"{verb} a path outside the allowlist", change.path
            )


def _judge_on_line(commit: Commit, merge: MergeChange | None) -> Iterator[Finding]:
    subject = parse_subject(commit.subject)
    if subject is not None and subject.is_fork:
        return
    if commit.is_merge:
        for change in merge.all if merge else ():
            yield _finding(MERGE_ON_LINE, commit, "the merge itself changes this path", change.path)
    elif subject is None:
        yield _finding(NOT_CONVENTIONAL, commit, "the subject is not a Conventional Commit")
    else:
        has = f"the scope {subject.scope}" if subject.scope else "no scope"
        yield _finding(SCOPE_NOT_FORK, commit, f"the subject has {has}, not {FORK_SCOPE}")


def _finding(rule: Rule, commit: Commit, message: str, path: str | None = None) -> Finding:
    return Finding(rule, message, commit.sha, commit.subject, path)
