"""Cherry-picking in a work tree that only forktools uses."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.git_repository import ask, run
from forktools.sanitize import decode
from forktools.settings import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import git

AT_ONCE = 50  # commits a git process picks; twice as fast as one at a time, and progress still moves
# A replay is mechanical: no hook runs, no editor opens.
MECHANICAL = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.editor=true",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "rerere.enabled=false",
    "-c",
    "i18n.commitEncoding=UTF-8",
    "-c",
    "commit.cleanup=verbatim",
    "-c",
    "core.fsmonitor=false",
)
_PICK = ("cherry-pick", "-x", "--allow-empty", "--allow-empty-message")  # an empty commit stays one
_NOBODY = ("-c", "user.name=forktools", "-c", "user.email=forktools", "-c", "commit.gpgSign=false")


def asked() -> tuple[str, ...]:
    """The git options for commits that stay, as the settings ask for them."""
    return ("-c", "commit.gpgSign=true") if current().require_signed_commits else ()


def act(repo: git.Repo, place: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Runs one git command in the work tree `place`. Raises RepositoryError when it fails."""
    return ask(repo, *MECHANICAL, *arguments, cwd=place, stdin=stdin)


def head(repo: git.Repo, place: Path) -> str:
    """The commit at HEAD of `place`."""
    return act(repo, place, "rev-parse", "HEAD").decode().strip()


def pick(repo: git.Repo, place: Path, shas: Sequence[str], *options: str) -> tuple[int, str]:
    """Picks `shas` in order until one fails. Returns the number picked and git's error ("" if all were)."""
    before = head(repo, place)
    status, _, complaint = run(repo, *MECHANICAL, *options, *_PICK, *shas, cwd=place)
    if status == 0:
        return len(shas), ""
    return len(act(repo, place, "rev-list", f"{before}..HEAD").split()), complaint.strip() or "no message"


def unmerged(repo: git.Repo, place: Path) -> tuple[str, ...]:
    """The paths in conflict."""
    listing = act(repo, place, "diff", "--name-only", "--diff-filter=U", "-z")
    return tuple(dict.fromkeys(decode(path) for path in listing.split(b"\0") if path))


def reset(repo: git.Repo, place: Path) -> None:
    """Aborts a pick under way and discards everything it left in the work tree."""
    run(repo, *MECHANICAL, "cherry-pick", "--quit", cwd=place)
    act(repo, place, "reset", "--quiet", "--hard")
    act(repo, place, "clean", "--quiet", "-ffdx")


def unlock(repo: git.Repo, place: Path) -> None:
    """Removes the locks that killed git processes left; no other process works here during a run."""
    own = decode(act(repo, place, "rev-parse", "--absolute-git-dir").rstrip(b"\n"))
    for lock in Path(own).glob("*.lock"):
        lock.unlink(missing_ok=True)


@contextmanager
def borrowed(repo: git.Repo, start: str) -> Iterator[Path]:
    """A temporary repository at commit `start` that reads the real one's objects and adds none to them."""
    with tempfile.TemporaryDirectory(prefix="forktools-") as scratch:
        place = Path(scratch) / "trial"
        kind = ask(repo, "rev-parse", "--show-object-format").decode().strip()
        ask(repo, "init", "--quiet", "--template=", f"--object-format={kind}", str(place))
        objects = ask(repo, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        (place / ".git" / "objects" / "info").mkdir(exist_ok=True)
        (place / ".git" / "objects" / "info" / "alternates").write_bytes(objects)
        act(repo, place, "checkout", "--quiet", "--detach", start)
        yield place


def commit(repo: git.Repo, place: Path) -> None:
    """Finishes the pick under way in a borrowed repository."""
    act(repo, place, *_NOBODY, "commit", "--quiet", "--no-verify", "--allow-empty", "--no-edit")


def trial(
    repo: git.Repo,
    start: str,
    shas: Sequence[str],
    settle: Callable[[Path, str, Sequence[str]], str | None],
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Picks `shas` onto `start` in a borrowed repository. Returns each with its conflicts and, if it stops,
    the reason.

    `settle` may commit a conflicting pick, and returns the reason if a person is needed all the same. Any
    other pick that stops is left out for the picks after it, so all results after the first are a forecast.
    """
    with borrowed(repo, start) as place:
        position = 0
        while position < len(shas):
            chunk = shas[position : position + AT_ONCE]
            done, complaint = pick(repo, place, chunk, *_NOBODY)
            yield from ((sha, (), "") for sha in chunk[:done])
            if complaint:
                conflicts = unmerged(repo, place)
                needed = settle(place, chunk[done], conflicts) if conflicts else None
                remark = ("conflicts" if conflicts else why(complaint)) if needed is None else needed
                yield chunk[done], conflicts, remark
                reset(repo, place)
                done += 1
            position += done


def why(complaint: str) -> str:
    if "cherry-pick is now empty" in complaint:
        return "comes out empty: the new base has this already"
    lines = [line for line in complaint.splitlines() if not line.startswith(("hint: ", "warning: "))]
    return (lines or complaint.splitlines())[0].removeprefix("error: ")
