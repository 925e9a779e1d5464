"""The fork's rules for commits, in one place: which subjects, which branches, which paths.

The fork keeps its own work apart from upstream's by the Conventional Commit scope `fork`. Product work of
the fork lives on release lines only (`release/vcluster/vX.Y.Z`, cut from upstream's tag vX.Y.Z); the trunk
carries upstream's history and the fork's tooling. A repository may set other names (`forktools.settings`);
`forktools policy show` prints what holds.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from packaging.version import Version

from forktools.sanitize import has_visible_text
from forktools.settings import PolicySettings, current

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forktools.commits import Change, Commit
    from forktools.merge_changes import MergeChange

_GIT_REVERT = re.compile(r'(?:Revert|Reapply) "(.*)"$', re.DOTALL)
_LOOK_ALIKES = str.maketrans("[]{}аеіорсхуѕкοκρνα", "()()aeiopcxyskokpva")
_UPSTREAM_TAG = re.compile(r"v([0-9]+)\.([0-9]+)\.([0-9]+)")


@dataclass(frozen=True, slots=True)
class _Forms:
    """The patterns for subjects under one policy."""

    subject: re.Pattern[str]
    nearly: re.Pattern[str]


@cache
def _forms(settings: PolicySettings) -> _Forms:
    scope = re.escape(settings.scope)
    return _Forms(
        re.compile(rf"({'|'.join(settings.types)})(?:\(([a-z0-9/_-]+)\))?(!)?: (.+)"),
        # Similar to the fork's scope but invalid: wrong case, spaces, a second word, no space after the
        # colon, or behind a prefix that git and people put before a subject.
        re.compile(
            r"\s*(?:(?:revert|reapply)\b[:\s\"']*|(?:fixup|squash|amend)!\s*)*\w+\s*!?\s*"
            rf"\([^)]*\b{scope}\b[^)]*\)",
            re.IGNORECASE,
        ),
    )


class Level(enum.StrEnum):
    """An error breaks a rule (exit status 1); a warning asks for a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, what it says, and how to satisfy it; `{scope}` in a text is the policy's."""

    name: str
    says_template: str
    fix_template: str
    level: Level = Level.ERROR

    @property
    def says(self) -> str:
        return _filled(self.says_template)

    @property
    def fix(self) -> str:
        return _filled(self.fix_template)


def _filled(template: str) -> str:
    settings = current()
    return template.format(
        scope=settings.scope,
        line=settings.line_prefix,
        trunks=" and ".join(settings.trunks),
        product=", ".join(settings.product_types),
        types=", ".join(settings.types),
        tag=settings.tag,
        signers=settings.signers,
    )


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
    "On {trunks}, no product commit of the fork ({product} with the scope {scope}).",
    "Open the pull request against the release line ({line}vX.Y.Z) that should carry it.",
)
PATH_OUTSIDE_ALLOWLIST = Rule(
    "path-outside-allowlist",
    "On {trunks}, the fork's tooling commits change allowlisted paths only; a rename counts "
    "under both names.",
    "Move the change to a release line, or split the commit so that this one stays within the allowlist.",
)
MERGE_ON_TRUNK = Rule(
    "merge-changes-path",
    "On {trunks}, a merge brings in its parents' work and nothing else outside the "
    "allowlist, save the resolution of a conflict.",
    "Redo the merge without the extra change, and make the change in a commit of its own.",
)
NOT_CONVENTIONAL = Rule(
    "not-conventional",
    "On {line}v*, every subject is a Conventional Commit.",
    "Reword it as `type({scope}): text` (`git rebase -i`); types: {types}.",
)
SCOPE_NOT_FORK = Rule(
    "scope-not-fork",
    "On {line}v*, every commit has the scope {scope}.",
    "Reword it as `type({scope}): text` (`git rebase -i`).",
)
MERGE_ON_LINE = Rule(
    "merge-not-fork",
    "On {line}v*, a merge that changes anything itself is a commit like any other.",
    "Rebase instead of merging, or give the merge a subject `type({scope}): text`.",
)
NEARLY_FORK = Rule(
    "nearly-fork",
    "A subject that looks like the scope {scope} but is written otherwise is not a fork commit, so the "
    "rules above do not see it.",
    "Write `type({scope}): text` if the commit is the fork's.",
    Level.WARNING,
)
MALFORMED = Rule(
    "malformed-commit",
    "A commit's header is read alike by everyone: tree, parents, author and committer once, in this order.",
    "Write the commit again with git (`git rebase --force-rebase`).",
)
SETTINGS_UNREADABLE = Rule(
    "settings-unreadable",
    "On {trunks}, the settings of forktools can be read: every gate reads them there.",
    "Mend them in this pull request: after it, no other could pass.",
)
SETTINGS_CHANGED = Rule(
    "settings-changed",
    "On {trunks}, a change of the settings is a change of what is judged from then on.",
    "Nothing, if it is meant: a code owner looks at it.",
    Level.WARNING,
)
SIGN_OFF_MISSING = Rule(
    "sign-off-missing",
    "Where the settings ask for it, a commit of the fork carries its author's Signed-off-by (DCO).",
    "Add it: `git commit --amend --signoff`, or `git rebase --signoff BASE` for several.",
)
COMMIT_UNSIGNED = Rule(
    "commit-unsigned",
    "Where the settings ask for it, a commit of the fork is signed with a key in {signers}.",
    "Sign it (`git rebase --exec 'git commit --amend --no-edit -S' BASE`); a new key comes into {signers} "
    "first.",
)
COMMIT_RULES = (
    MALFORMED,
    PRODUCT_ON_TRUNK,
    PATH_OUTSIDE_ALLOWLIST,
    MERGE_ON_TRUNK,
    NOT_CONVENTIONAL,
    SCOPE_NOT_FORK,
    MERGE_ON_LINE,
    NEARLY_FORK,
    SETTINGS_UNREADABLE,
    SETTINGS_CHANGED,
    SIGN_OFF_MISSING,
    COMMIT_UNSIGNED,
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
        return self.scope == current().scope

    @property
    def is_product(self) -> bool:
        return self.is_fork and self.type in current().product_types


def parse_subject(subject: str) -> Subject | None:
    """The parts of a subject as the Conventional Commits specification 1.0.0 has them; None if it is none."""
    match = _forms(current()).subject.fullmatch(subject)
    if match is None or not has_visible_text(match[4]):
        return None
    return Subject(match[1], match[2] or "", bool(match[3]), match[4])


def is_fork_commit(commit: Commit) -> bool:
    """Whether a commit says that it is the fork's."""
    subject = parse_subject(commit.subject)
    return subject is not None and subject.is_fork


def nearly_fork(subject: str) -> bool:
    """Whether a reader would take `subject` for one of the fork's, though the policy does not.

    Full-width, Cyrillic and Greek letters of the same look and any brackets count as the plain ones, a byte
    order mark or zero-width sign as none.
    """
    plain = unicodedata.normalize("NFKC", subject).translate(_LOOK_ALIKES)
    return bool(
        _forms(current()).nearly.match("".join(char for char in plain if unicodedata.category(char) != "Cf"))
    )


def branch_kind(name: str) -> Branch:
    """What a branch is to the policy. Every `<line prefix>v…` is gated, a misspelt version too."""
    if name in current().trunks:
        return Branch.TRUNK
    return Branch.LINE if name.startswith(f"{current().line_prefix}v") else Branch.OTHER


def allowed_on_trunk(path: str) -> bool:
    """Whether a tooling commit of the fork may change `path` on the trunk.

    A name that leads elsewhere is in no tree that git makes, yet in some that it takes.
    """
    allowlist = current().allowlist
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/")):
        return False
    return any(path.startswith(entry[:-2]) if entry.endswith("/**") else path == entry for entry in allowlist)


def version_name(branch: str) -> str:
    """`vX.Y.Z` of a line's branch; any other name as it is."""
    return branch.removeprefix(current().line_prefix)


def line_version(name: str) -> Version | None:
    """The upstream version of a line's branch name or of an upstream tag; None if it is neither."""
    match = _UPSTREAM_TAG.fullmatch(version_name(name))
    return Version(".".join(match.groups())) if match else None


def line_branch(name: str) -> str | None:
    """The branch of the line given as `vX.Y.Z`, `X.Y.Z` or in full; None if `name` is no such thing."""
    short = version_name(name)
    short = short if short.startswith("v") else f"v{short}"
    return f"{current().line_prefix}{short}" if line_version(short) else None


def judge(
    base: Branch, commit: Commit, changes: Sequence[Change], merge: MergeChange | None
) -> Iterator[Finding]:
    """The rules that `commit` breaks in a pull request into a branch of kind `base`.

    `changes` are the paths of an ordinary commit, `merge` a merge's own; a merge that adds nothing of its
    own is judged by its subject alone.
    """
    if base is Branch.OTHER:
        return
    if commit.malformed:
        yield _finding(MALFORMED, commit, commit.malformed)
    if base is Branch.TRUNK:
        yield from _judge_on_trunk(commit, changes, merge)
    else:
        yield from _judge_on_line(commit, merge)


def _judge_on_trunk(
    commit: Commit, changes: Sequence[Change], merge: MergeChange | None
) -> Iterator[Finding]:
    subject = parse_subject(commit.subject)
    if subject is None or not subject.is_fork:
        if nearly_fork(commit.subject):
            yield _finding(NEARLY_FORK, commit, "looks like a fork commit, but is not written as one")
        for change in merge.unprompted if merge else ():
            if not allowed_on_trunk(change.path):
                yield _finding(MERGE_ON_TRUNK, commit, "the merge itself changes this path", change.path)
        return
    if subject.is_product:
        message = f"{subject.type}({current().scope}) is a product commit of the fork"
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
        reverted = _GIT_REVERT.match(commit.subject)
        say = f"; of a revert: revert({current().scope}): {_text_of(reverted[1])}" if reverted else ""
        yield _finding(NOT_CONVENTIONAL, commit, f"the subject is not a Conventional Commit{say}")
    else:
        has = f"the scope {subject.scope}" if subject.scope else "no scope"
        yield _finding(SCOPE_NOT_FORK, commit, f"the subject has {has}, not {current().scope}")


def _text_of(subject: str) -> str:
    """What a subject says, without its type and scope."""
    parsed = parse_subject(subject)
    return parsed.text if parsed else subject


def _finding(rule: Rule, commit: Commit, message: str, path: str | None = None) -> Finding:
    return Finding(rule, message, commit.sha, commit.subject, path)
