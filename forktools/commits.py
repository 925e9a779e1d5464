"""Commits, the paths they change and their patch-ids, read in a few git calls however many there are.

git reads the commits, with NUL between fields and paths, and `patch-id` reads the patches. So no text in a
message or a file name can be taken for structure, and git's own parsing is not repeated here.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from forktools import isolated_git, patch_cache, progress
from forktools.sanitize import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import git

# As recorded: no rename detection (so both names of a rename show), no drivers, submodules included.
AS_RECORDED = ("--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")

AT_ONCE = 5000  # patches for one pair of git processes; it takes a second or so
KEPT_FROM = 500  # fewer patches are faster to read than to look up in the cache

_PICKED = re.compile(
    r"^[ \t]*(?:\(?(?:cherry[ -]picked|back[ -]?ported) from commit ([0-9a-f]{7,64})\)?"
    r"|Cherry-picked-from:[ \t]*([0-9a-f]{7,64}))\s*$",
    re.MULTILINE | re.IGNORECASE,
)
_REVERTED = re.compile(r"^This reverts commit ([0-9a-f]{7,64})\b", re.MULTILINE)
_REVERT_TYPE = re.compile(r"revert\b", re.IGNORECASE)
_REFS = re.compile(r"^Refs:[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. `subject` is git's `%s`: the first paragraph on one line. Bytes that are not UTF-8 stay
    as surrogates (see `sanitize.decode`). `picked_from` and `reverts` are the ids its message names, in the
    order it names them, perhaps abbreviated. `malformed` says how its header is ambiguous."""

    sha: str
    parents: tuple[str, ...]
    subject: str
    message: str
    picked_from: tuple[str, ...] = ()
    reverts: tuple[str, ...] = ()
    malformed: str = ""

    @property
    def short(self) -> str:
        return self.sha[:12]

    @property
    def is_merge(self) -> bool:
        return len(self.parents) > 1


class Change(NamedTuple):
    """One changed path of one commit; `status` is git's letter (A, D, M, T)."""

    path: str
    status: str


def read_range(repo: git.Repo, tips: Sequence[str], excluded: Sequence[str]) -> list[Commit]:
    """The commits reachable from `tips` and not from `excluded`, full ids all, parents before children."""
    wanted = "".join(f"{sha}\n" for sha in tips) + "".join(f"^{sha}\n" for sha in excluded)
    shas = isolated_git.ask(repo, "rev-list", "--topo-order", "--reverse", "--stdin", stdin=wanted.encode())
    return _read(repo, shas)


def read_commit(repo: git.Repo, sha: str) -> Commit:
    """The commit with the full id `sha`."""
    return _read(repo, f"{sha}\n".encode())[0]


def _read(repo: git.Repo, shas: bytes) -> list[Commit]:
    """The commits as git reads them, with their parents; messages are in the encoding that they name."""
    if not shas:
        return []
    listing = isolated_git.ask(
        repo, "log", "--no-walk=unsorted", "--stdin", "-z", "--format=%H%x00%P%x00%s%x00%B", stdin=shas
    )
    fields = listing.split(b"\0")  # git ends a message at its first NUL, so there is none in a field
    malformed = _malformed(isolated_git.ask(repo, "cat-file", "--batch", stdin=shas))
    commits = []
    for sha, parents, subject, message in zip(*(fields[n::4] for n in range(4)), strict=False):
        name, text = sha.decode(), decode(message)
        commits.append(
            Commit(
                name,
                tuple(parents.decode().split()),
                decode(subject),
                text,
                picked_from(text),
                reverts(decode(subject), text),
                malformed.get(name, ""),
            )
        )
    return commits


def _malformed(batch: bytes) -> dict[str, str]:
    """The defects of commit headers, by id, from a `cat-file --batch`; sound commits are left out."""
    found: dict[str, str] = {}
    position = 0
    while position < len(batch):
        end = batch.index(b"\n", position)
        sha, kind, size = batch[position:end].split(b" ")
        if kind != b"commit":
            raise ValueError(f"{sha.decode()} is a {kind.decode()}, not a commit")
        body = end + 1
        if wrong := malformed_header(batch[body : body + int(size)]):
            found[sha.decode()] = wrong
        position = body + int(size) + 1
    return found


def malformed_header(raw: bytes) -> str:
    """The reason why another reader than git could read this commit differently; empty if there is none.

    git reads `tree`, `parent`s, `author` and `committer` in this order and ignores them elsewhere.
    """
    header = raw.partition(b"\n\n")[0]
    if b"\0" in header:
        return "its header holds a NUL"
    names = [line.split(b" ", 1)[0] for line in header.split(b"\n")]  # a continued line has an empty name
    parents = 0
    while names[1 + parents : 2 + parents] == [b"parent"]:
        parents += 1
    if names[:1] != [b"tree"] or names[1 + parents : 3 + parents] != [b"author", b"committer"]:
        return "its header is not tree, parents, author and committer"
    rest = names[3 + parents :]
    for name in (b"tree", b"parent", b"author", b"committer"):
        if name in rest:
            return f"its header repeats {name.decode()} after committer"
    return "its header names several encodings" if rest.count(b"encoding") > 1 else ""


def picked_from(message: str) -> tuple[str, ...]:
    """The ids that a message names as picked from, in the forms that git, GitHub and people write."""
    return tuple(dict.fromkeys(first or second for first, second in _PICKED.findall(message)))


def reverts(subject: str, message: str) -> tuple[str, ...]:
    """The ids that a message names as reverted: by git's sentence, or by `Refs:` under the type `revert`."""
    named = _REVERTED.findall(message)
    if _REVERT_TYPE.match(subject):
        named += [sha for line in _REFS.findall(message) for sha in re.findall(r"\b[0-9a-f]{7,64}\b", line)]
    return tuple(dict.fromkeys(named))


def changed_paths(repo: git.Repo, commits: Iterable[Commit]) -> dict[str, tuple[Change, ...]]:
    """The changes of each commit that is not a merge, by id; a commit that changes nothing is left out."""
    shas = "".join(f"{commit.sha}\n" for commit in commits if not commit.is_merge).encode()
    if not shas:
        return {}
    raw = isolated_git.ask(
        repo, "diff-tree", "--stdin", "--root", "-r", "-z", "--raw", *AS_RECORDED, stdin=shas
    )
    return parse_raw_changes(raw)


def tree_changes(repo: git.Repo, old: str, new: str) -> tuple[Change, ...]:
    """The paths in which two trees differ."""
    raw = isolated_git.ask(repo, "diff-tree", "-r", "-z", "--raw", *AS_RECORDED, old, new)
    return parse_raw_changes(b"-\0" + raw).get("-", ())


def parse_raw_changes(raw: bytes) -> dict[str, tuple[Change, ...]]:
    """The changes in `--raw -z` output, by the commit id printed before them.

    A field that starts with a colon is followed by exactly one path, so a file named like a commit id is
    no header.
    """
    changes: dict[str, list[Change]] = {}
    current: list[Change] = []
    fields = iter(raw.split(b"\0"))
    for field in fields:
        header = field.lstrip(b"\n")  # `git log` ends the line of the commit id before the first change
        if header.startswith(b":"):
            current.append(Change(decode(next(fields)), header.rsplit(b" ", 1)[1][:1].decode()))
        elif header:
            current = changes.setdefault(header.decode(), [])
    return {sha: tuple(found) for sha, found in changes.items() if found}


def patch_ids(repo: git.Repo, commits: Iterable[Commit], *, context: int = 3) -> dict[str, str]:
    """`git patch-id` of each commit that changes something and is not a merge, by commit id.

    With a `context` of 0 only the lines count that are added and removed, not those around them.

    `--verbatim`: white space counts, because in Python, YAML and Makefiles an indentation is a change. Binary
    files count by their object ids (`--full-index`).
    """
    shas = [commit.sha for commit in commits if not commit.is_merge]
    kept = len(shas) >= KEPT_FROM
    key = f"git {'.'.join(map(str, repo.git.version_info))} -U{context}"
    found = patch_cache.known(key, shas) if kept else {}
    missing = [sha for sha in shas if sha not in found]
    for start in range(0, len(missing), AT_ONCE):
        part = missing[start : start + AT_ONCE]
        progress.with_progress("Reading patches", start, len(missing))
        read = dict.fromkeys(part, "") | _patch_ids(repo, part, context)
        found |= read
        if kept:
            patch_cache.keep(key, read)
    progress.with_progress("Reading patches", len(missing), len(missing))
    return {sha: patch for sha in shas if (patch := found[sha])}


def _patch_ids(repo: git.Repo, shas: Sequence[str], context: int) -> dict[str, str]:
    with tempfile.TemporaryFile() as patches:  # hundreds of megabytes on a long range: too much for memory
        shown = ("-p", f"-U{context}", "--full-index", *AS_RECORDED)
        arguments = ("diff-tree", "--stdin", "--root", "-r", *shown)
        stdin = "".join(f"{sha}\n" for sha in shas).encode()
        isolated_git.ask(repo, *arguments, stdin=stdin, output=patches)
        patches.seek(0)
        listing = isolated_git.ask(repo, "patch-id", "--verbatim", stdin=patches)
    pairs = (line.split() for line in listing.decode().splitlines())
    return {sha: patch for patch, sha in pairs}


def range_diff(repo: git.Repo, old: str, new: str) -> str:
    """The `git range-diff` of commit `new` against the commit `old` it replays."""
    status, output, complaint = isolated_git.run(
        repo, "range-diff", "--no-color", "--creation-factor=999", "--no-notes", f"{old}^!", f"{new}^!"
    )
    return decode(output) if status == 0 else f"git range-diff failed: {complaint.strip()}"
