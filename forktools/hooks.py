"""Git hooks: the policy checked before a commit is made (commit-msg) and before a push (pre-push).

A hook judges by the branch that the work will go into: the current branch if it is a trunk or a line, else
the nearest trunk or line. If two are equally near, only what both refuse is refused. Hooks give early
feedback; `--no-verify` skips them, and the gates check again.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.commits import Change, Commit, changed_paths, read_range
from forktools.git_repository import RepositoryError, ask, commit_id, references, run
from forktools.merge_changes import merge_changes
from forktools.policy import (
    SIGN_OFF_MISSING,
    Branch,
    Finding,
    Level,
    branch_kind,
    is_fork_commit,
    judge,
    line_version,
    version_name,
)
from forktools.replay_gate import check_tag
from forktools.sanitize import decode, visible
from forktools.settings import current
from forktools.signatures import judge_commits
from forktools.tags import check_name, commit_of_upstream_tag, is_base_tag, parse_tag, upstream_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import git

NAMES = ("commit-msg", "pre-push")
MARK = "# Written by `forktools hooks install`; `forktools hooks uninstall` removes it."

_AUTOSQUASH = re.compile(r"(?:(?:fixup|squash|amend)! )+")
_SCISSORS = re.compile(r"^. -+ >8 -+$.*", re.MULTILINE | re.DOTALL)
_NOTHING = re.compile(r"0+")


@dataclass(frozen=True, slots=True)
class Base:
    """A branch that work may go into."""

    name: str
    kind: Branch
    commit: str


@dataclass(frozen=True, slots=True)
class Push:
    """One reference to be pushed; `before` is the remote's value (zeros: it does not exist there)."""

    commit: str
    ref: str
    before: str


# ---- installing


def install(repo: git.Repo, *, force: bool) -> list[Path]:
    """Writes the hooks. Raises RepositoryError if another program's hook is installed and `force` is not
    given; with it, that hook is kept under the name `….old`."""
    place = _directory(repo)
    foreign = [name for name in NAMES if _is_foreign(place / name)]
    if foreign and not force:
        raise RepositoryError(
            f"there is a hook already: {visible(str(place / foreign[0]))}",
            f'Call `forktools hooks {foreign[0]} "$@"` in it, or install with --force, which keeps it as '
            f"{foreign[0]}.old.",
        )
    place.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path = place / name
        if name in foreign:
            path.rename(path.with_name(f"{name}.old"))
        path.write_text(_script(name), encoding="utf-8")
        path.chmod(0o755)
    return [place / name for name in NAMES]


def uninstall(repo: git.Repo) -> list[Path]:
    """Removes the hooks that `install` wrote, and restores those that it moved aside."""
    place = _directory(repo)
    own = [place / name for name in NAMES if (place / name).exists() and not _is_foreign(place / name)]
    for path in own:
        path.unlink()
        old = path.with_name(f"{path.name}.old")
        if old.exists():
            old.rename(path)
    return own


def _directory(repo: git.Repo) -> Path:
    """The hook directory of git. Raises RepositoryError when other repositories use the same directory."""
    status, _, _ = run(repo, "config", "--get", "core.hooksPath")
    local, _, _ = run(repo, "config", "--local", "--get", "core.hooksPath")
    if status == 0 and local != 0:
        raise RepositoryError(
            "core.hooksPath is set for all repositories",
            "Give this one its own: git config --local core.hooksPath .git/hooks",
        )
    return Path(decode(ask(repo, "rev-parse", "--path-format=absolute", "--git-path", "hooks")).rstrip("\n"))


def _is_foreign(path: Path) -> bool:
    return path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")


def _script(name: str) -> str:
    # -P: a work tree with its own forktools package (this repository's) is judged by the installed one.
    return f"""#!/bin/sh
{MARK}
python={shlex.quote(sys.executable)}
if [ -x "$python" ] && [ -f {shlex.quote(__file__)} ]; then
  exec "$python" -P -m forktools hooks {name} "$@"
elif command -v forktools >/dev/null 2>&1; then
  exec forktools hooks {name} "$@"
fi
echo "forktools is not installed any more; nothing was checked. See: forktools hooks uninstall" >&2
"""


# ---- judging


def check_message(repo: git.Repo, text: str, remote: str, index: str) -> list[Finding]:
    """The findings for a commit about to be made, from its message and the changes in the index."""
    message = _stripped(repo, text)
    if not message or _merging(repo):
        return []
    subject = _AUTOSQUASH.sub("", " ".join(message.split("\n\n")[0].splitlines()).strip())
    commit = Commit("", ("",), subject, message)
    staged = _staged(repo, index)

    def of(base: Base) -> list[Finding]:
        found = list(judge(base.kind, commit, staged, None))
        if current().require_sign_off and (base.kind is Branch.LINE or is_fork_commit(commit)):
            found += _without_sign_off(repo, commit)
        return found

    return _agreed(of, _bases(repo, references(repo), remote))


def check_push(repo: git.Repo, pushes: Sequence[Push], remote: str) -> list[Finding]:
    """The findings for commits and tags about to be pushed."""
    refs = references(repo)
    found: list[Finding] = []
    for push in pushes:
        if _NOTHING.fullmatch(push.commit):  # a deletion
            continue
        if push.ref.startswith("refs/tags/v"):
            found += _check_tag(repo, refs, push, remote)
        elif push.ref.startswith("refs/heads/"):
            found += _check_branch(repo, refs, push, remote)
    return found


def _check_tag(repo: git.Repo, refs: Mapping[str, str], push: Push, remote: str) -> Iterator[Finding]:
    tag = push.ref.removeprefix("refs/tags/")
    theirs = upstream_tags(refs).get(tag)
    if theirs not in (None, push.ref) and commit_id(repo, theirs or "", "the tag") == commit_id(
        repo, push.commit, "the tag"
    ):
        return  # upstream's own
    known = parse_tag(tag) or is_base_tag(tag)
    if known and refs.get(push.ref) != push.commit:
        raise RepositoryError(
            f"{visible(tag)} here is not what is to be pushed under this name",
            "Push a tag under its own name.",
        )
    yield from (check_tag(repo, tag, remote) if known else check_name(tag)).findings


def _check_branch(repo: git.Repo, refs: Mapping[str, str], push: Push, remote: str) -> list[Finding]:
    name = push.ref.removeprefix("refs/heads/")
    kind = branch_kind(name)
    if kind is Branch.OTHER:
        bases = _bases(repo, refs, remote, push.commit)
    else:
        there = run(repo, "cat-file", "-e", f"{push.before}^{{commit}}")[0] == 0
        if there and not _NOTHING.fullmatch(push.before):
            start = push.before
        elif kind is Branch.LINE and line_version(name):
            start = commit_of_upstream_tag(repo, refs, version_name(name))
        else:
            start = refs.get(f"refs/remotes/{remote}/{name}", push.commit)
        bases = [Base(name, kind, start)]

    def of(base: Base) -> list[Finding]:
        commits = read_range(repo, [push.commit], [base.commit])
        changes = changed_paths(repo, commits) if base.kind is Branch.TRUNK else {}
        merges = merge_changes(repo, commits)
        judged = [
            finding
            for commit in commits
            for finding in judge(base.kind, commit, changes.get(commit.sha, ()), merges.get(commit.sha))
        ]
        ours = [commit for commit in commits if base.kind is Branch.LINE or is_fork_commit(commit)]
        return judged + list(judge_commits(repo, ours))

    return _agreed(of, bases)


def _agreed(judged: Callable[[Base], list[Finding]], bases: Sequence[Base]) -> list[Finding]:
    """The findings for the base with the fewest errors: work that one base accepts may go there."""

    def cost(findings: list[Finding]) -> tuple[int, int]:
        return sum(finding.rule.level is Level.ERROR for finding in findings), len(findings)

    return min((judged(base) for base in bases), key=cost, default=[])


def _bases(repo: git.Repo, refs: Mapping[str, str], remote: str, tip: str = "") -> list[Base]:
    """The trunks and lines nearest to `tip`, or to HEAD; its own branch if it is one."""
    status, head, _ = run(repo, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if not tip:
        _, on, _ = run(repo, "symbolic-ref", "--quiet", "--short", "HEAD")
        own = decode(on).strip()
        if branch_kind(own) is not Branch.OTHER:
            return [Base(own, branch_kind(own), head.decode().strip())]
        if status:
            return []
        tip = head.decode().strip()
    distances: dict[int, list[Base]] = {}
    for place in (f"refs/remotes/{remote}/", "refs/heads/"):
        for ref, sha in refs.items():
            name = ref.removeprefix(place)
            if ref.startswith(place) and (kind := branch_kind(name)) is not Branch.OTHER:
                count = int(ask(repo, "rev-list", "--count", tip, f"^{sha}"))
                distances.setdefault(count, []).append(Base(name, kind, sha))
    return distances[min(distances)] if distances else []


def _stripped(repo: git.Repo, text: str) -> str:
    """The message that git will record: without comments and the text below the scissors line."""
    cut = _SCISSORS.sub("", text)
    raw = ask(repo, "stripspace", "--strip-comments", stdin=cut.encode("utf-8", "surrogateescape"))
    return decode(raw).strip()


def _merging(repo: git.Repo) -> bool:
    path = decode(ask(repo, "rev-parse", "--path-format=absolute", "--git-path", "MERGE_HEAD")).rstrip("\n")
    return Path(path).exists()


def _staged(repo: git.Repo, index: str) -> tuple[Change, ...]:
    """The changes in the index; `index` is the temporary index git makes for a commit of some paths only."""
    status, _, _ = run(repo, "rev-parse", "--verify", "--quiet", "HEAD")
    start = (
        "HEAD"
        if status == 0
        else decode(ask(repo, "hash-object", "-t", "tree", "--stdin", stdin=b"")).strip()
    )
    arguments = ("diff-index", "--cached", "--name-status", "--no-renames", "-z", start)
    fields = decode(ask(repo, *arguments, environment={"GIT_INDEX_FILE": index} if index else None)).split(
        "\0"
    )
    return tuple(Change(path, letter) for letter, path in zip(fields[::2], fields[1::2], strict=False))


def _without_sign_off(repo: git.Repo, commit: Commit) -> Iterator[Finding]:
    identity = decode(ask(repo, "var", "GIT_AUTHOR_IDENT"))
    email = identity[identity.rindex("<") + 1 : identity.rindex(">")]
    trailers = decode(
        ask(repo, "interpret-trailers", "--parse", stdin=commit.message.encode("utf-8", "surrogateescape"))
    )
    if not re.search(rf"^signed-off-by: .*<{re.escape(email)}>$", trailers, re.MULTILINE | re.IGNORECASE):
        yield Finding(
            SIGN_OFF_MISSING, f"no Signed-off-by of its author, <{visible(email)}>", "", commit.subject
        )
