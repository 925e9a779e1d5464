"""Commits, the paths they change and the patches they are, in a few git calls however many there are.

Commits are read as objects (`cat-file --batch` states each length), paths with NUL between them and
patches by `patch-id`, so nothing in a message or a file name can be taken for structure.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from forktools.repository import ask, run
from forktools.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import git

# As the objects say: no rename guessing (so both names of a rename show), no drivers, submodules too.
AS_RECORDED = ("--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")

_PICKED = re.compile(r"^\(cherry picked from commit ([0-9a-f]{7,64})\)\s*$", re.MULTILINE)
_REVERTED = re.compile(r"^This reverts commit ([0-9a-f]{7,64})\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. `subject` is git's `%s`: the first paragraph on one line. Bytes that are not UTF-8 stay
    as surrogates (see `text.decode`). `picked_from` and `reverts` are the ids its message names, in the
    order it names them, perhaps abbreviated."""

    sha: str
    parents: tuple[str, ...]
    subject: str
    message: str
    picked_from: tuple[str, ...] = ()
    reverts: tuple[str, ...] = ()

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
    """The commits reachable from `tips` and not from `excluded`, parents before children."""
    wanted = "".join(f"{sha}\n" for sha in tips) + "".join(f"^{sha}\n" for sha in excluded)
    shas = ask(repo, "rev-list", "--topo-order", "--reverse", "--stdin", stdin=wanted.encode())
    return list(_parse_batch(ask(repo, "cat-file", "--batch", stdin=shas)))


def read_commit(repo: git.Repo, sha: str) -> Commit:
    """The commit with the full id `sha`."""
    return parse_commit(sha, ask(repo, "cat-file", "commit", sha))


def _parse_batch(stream: bytes) -> Iterator[Commit]:
    position = 0
    while position < len(stream):
        end = stream.index(b"\n", position)
        sha, kind, size = stream[position:end].split(b" ")
        if kind != b"commit":
            raise ValueError(f"{sha.decode()} is a {kind.decode()}, not a commit")
        body = end + 1
        yield parse_commit(sha.decode(), stream[body : body + int(size)])
        position = body + int(size) + 1


def parse_commit(sha: str, raw: bytes) -> Commit:
    """A commit from the bytes of its object."""
    header, _, message = raw.partition(b"\n\n")
    parents: list[str] = []
    encoding = "utf-8"
    for line in header.split(b"\n"):  # a continued line starts with a space, so it matches no field
        if line.startswith(b"parent "):
            parents.append(line[7:].decode("ascii"))
        elif line.startswith(b"encoding "):
            encoding = line[9:].decode("ascii", "replace")
    text = _message_text(message.split(b"\0", 1)[0], encoding)  # git, too, reads up to the first NUL
    picked, reverted = tuple(_PICKED.findall(text)), tuple(_REVERTED.findall(text))
    return Commit(sha, tuple(parents), _subject(text), text, picked, reverted)


def _message_text(raw: bytes, encoding: str) -> str:
    if encoding.lower() not in ("utf-8", "utf8"):
        try:
            return raw.decode(encoding)
        except (LookupError, UnicodeDecodeError, ValueError):
            pass
    return decode(raw)


def _subject(message: str) -> str:
    lines: list[str] = []
    for line in message.split("\n"):
        stripped = line.rstrip(" \t\n\v\f\r")
        if stripped:
            lines.append(stripped)
        elif lines:
            break
    return " ".join(lines)


def changed_paths(repo: git.Repo, commits: Iterable[Commit]) -> dict[str, tuple[Change, ...]]:
    """What each commit that is not a merge changes, by id; a commit that changes nothing is left out."""
    shas = "".join(f"{commit.sha}\n" for commit in commits if not commit.is_merge).encode()
    if not shas:
        return {}
    raw = ask(repo, "diff-tree", "--stdin", "--root", "-r", "-z", "--raw", *AS_RECORDED, stdin=shas)
    return parse_raw_changes(raw)


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


def patch_ids(repo: git.Repo, commits: Iterable[Commit]) -> dict[str, str]:
    """`git patch-id` of each commit that changes something and is not a merge, by commit id.

    `--verbatim`: white space counts, because in Python, YAML and Makefiles an indentation is a change. Binary
    files count by their object ids (`--full-index`).
    """
    shas = "".join(f"{commit.sha}\n" for commit in commits if not commit.is_merge).encode()
    if not shas:
        return {}
    with tempfile.TemporaryFile() as patches:  # hundreds of megabytes on a long range: not in memory
        arguments = ("diff-tree", "--stdin", "--root", "-r", "-p", "--full-index", *AS_RECORDED)
        ask(repo, *arguments, stdin=shas, output=patches)
        patches.seek(0)
        listing = ask(repo, "patch-id", "--verbatim", stdin=patches)
    pairs = (line.split() for line in listing.decode().splitlines())
    return {sha: patch for patch, sha in pairs}


def range_diff(repo: git.Repo, old: str, new: str) -> str:
    """How commit `new` differs from the commit `old` it replays, as `git range-diff` shows it."""
    status, output, complaint = run(
        repo, "range-diff", "--no-color", "--creation-factor=999", "--no-notes", f"{old}^!", f"{new}^!"
    )
    return decode(output) if status == 0 else f"git range-diff failed: {complaint.strip()}"
