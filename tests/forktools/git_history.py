"""Test repositories, written commit by commit with `git fast-import`: any bytes, parents and tree."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The change of a path in a commit: new contents, or one of these.
DELETED = None


@dataclass(frozen=True)
class Link:
    """A submodule's commit."""

    commit: str


@dataclass(frozen=True)
class Symlink:
    """A symbolic link."""

    target: str


Content = str | bytes | Link | Symlink | None
Changes = Mapping[str | bytes, Content]


@dataclass
class History:
    """A repository and the commits created in it so far."""

    path: Path
    clock: int = field(default=1_700_000_000)

    @classmethod
    def start(cls, path: Path, *options: str) -> History:
        path.mkdir(parents=True)
        history = cls(path)
        history.git("init", "--quiet", "--initial-branch=main", *options)
        return history

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, input=stdin, capture_output=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"git {arguments}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def commit(
        self,
        message: str | bytes,
        changes: Changes | None = None,
        *,
        on: str = "main",
        parents: Sequence[str] | None = None,
        author: str = "A U Thor <author@example.com>",
    ) -> str:
        """Adds a commit to the branch `on`; its tree is the first parent's with `changes`. Without `parents`
        the branch's tip is the only one."""
        self.clock += 60
        text = message.encode() if isinstance(message, str) else message
        ref = f"refs/heads/{on}"
        if parents is None:
            parents = [ref] if (self.path / ".git" / ref).exists() or self.has(ref) else []
        stream = bytearray(
            f"commit {ref}\nmark :1\nauthor {author} {self.clock} +0000\n"
            f"committer C O Mitter <committer@example.com> {self.clock} +0000\n".encode()
        )
        stream += b"data %d\n%s\n" % (len(text), text)
        for index, parent in enumerate(parents):
            stream += f"{'merge' if index else 'from'} {parent}^0\n".encode()
        for path, content in (changes or {}).items():
            stream += _change(path, content)
        marks = self.path / ".marks"
        self.git("fast-import", "--quiet", "--force", f"--export-marks={marks}", stdin=bytes(stream))
        sha = marks.read_text().split()[1]
        marks.unlink()
        return sha

    def has(self, ref: str) -> bool:
        found = subprocess.run(["git", "show-ref", "--verify", "--quiet", ref], cwd=self.path, check=False)
        return found.returncode == 0

    def branch(self, name: str, at: str) -> None:
        self.git("update-ref", f"refs/heads/{name}", self.sha(at))

    def tag(self, name: str, at: str, message: str = "") -> None:
        self.git("tag", *(["-a", "-m", message] if message else []), name, self.sha(at))

    def sha(self, revision: str) -> str:
        return self.git("rev-parse", f"{revision}^{{commit}}")

    def show(self, revision: str, path: str) -> str:
        return self.git("show", f"{revision}:{path}")

    def subjects(self, commits: str) -> list[str]:
        """Subjects, oldest first."""
        return self.git("log", "--reverse", "--topo-order", "--format=%s", commits).splitlines()

    def state(self) -> tuple[str, str, str, list[str]]:
        """All that a command might change: references, work tree, list of work trees, files in .git."""
        top = sorted(path.name for path in (self.path / ".git").iterdir())
        return (
            self.git("for-each-ref"),
            self.git("status", "--porcelain", "--ignored"),
            self.git("worktree", "list"),
            top,
        )


def _change(path: str | bytes, content: Content) -> bytes:
    raw = path.encode() if isinstance(path, str) else path
    quoted = b'"' + b"".join(_quoted(byte) for byte in raw) + b'"'
    if content is None:
        return b"D %s\n" % quoted
    if isinstance(content, Link):
        return b"M 160000 %s %s\n" % (content.commit.encode(), quoted)
    mode = b"120000" if isinstance(content, Symlink) else b"100644"
    text = content.target if isinstance(content, Symlink) else content
    data = text.encode() if isinstance(text, str) else text
    return b"M %s inline %s\ndata %d\n%s\n" % (mode, quoted, len(data), data)


def _quoted(byte: int) -> bytes:
    plain = 0x20 <= byte < 0x7F and byte not in b'"\\'
    return bytes([byte]) if plain else b"\\%03o" % byte
