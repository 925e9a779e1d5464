"""Saved replay runs: one JSON file per line in the git directory that all work trees share, and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from forktools.git_repository import RepositoryError, ask
from forktools.policy import version_name
from forktools.replay_plan import PlannedAction
from forktools.replay_run import ReplayRun, Reused, RunPhase, RunStep
from forktools.resolutions import Conflict
from forktools.sanitize import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import git


@contextlib.contextmanager
def locked(repo: git.Repo) -> Iterator[Path]:
    """Locks the directory of the runs; the directory is removed afterwards if it holds none.

    Raises RepositoryError while another process holds the lock.
    """
    common = decode(ask(repo, "rev-parse", "--path-format=absolute", "--git-common-dir").rstrip(b"\n"))
    directory = Path(common) / "forktools"
    directory.mkdir(exist_ok=True)
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield directory
    except BlockingIOError:
        raise RepositoryError("another forktools is cutting a line here", "Wait for it to end.") from None
    finally:
        os.close(held)
        with contextlib.suppress(OSError):
            directory.rmdir()


def require_unlocked(directory: Path, patience: float = 2.0) -> None:
    """Raises RepositoryError when a killed git has left its lock on the repository's references.

    Every pick would wait for it. It may belong to another git process, so it is not removed here; a living
    git holds it for milliseconds, hence `patience`, in seconds.
    """
    lock = directory.parent / "packed-refs.lock"
    until = time.monotonic() + patience
    while lock.exists():
        if time.monotonic() > until:
            raise RepositoryError(
                f"{lock} is in the way, left by a git that was killed",
                "Make sure that no git is at work in this repository, remove the file, and run this again.",
            )
        time.sleep(0.05)


def write(directory: Path, run: ReplayRun) -> None:
    """Saves a run atomically; a reader sees the old state or the new one."""
    path = _path(directory, run.branch)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(run)), encoding="ascii")
    part.replace(path)


def erase(directory: Path, run: ReplayRun) -> None:
    """Deletes the file of a run."""
    _path(directory, run.branch).unlink(missing_ok=True)


def read(directory: Path, branch: str | None) -> ReplayRun:
    """The run for `branch`, or the only one. Raises RepositoryError when there is none, or more than one."""
    found = [_parse(path) for path in sorted(directory.glob("*.json"))]
    runs = [run for run in found if branch in (None, run.branch)]
    if not runs:
        raise RepositoryError(
            "no line is being cut here", "Start with `forktools replay apply --from … --to …`."
        )
    if len(runs) > 1:
        raise RepositoryError(
            "more than one line is being cut: " + ", ".join(run.branch for run in runs), "Name one with --to."
        )
    return runs[0]


def require_none(directory: Path, branch: str) -> None:
    """Raises RepositoryError when a run for `branch` exists already."""
    if _path(directory, branch).exists():
        raise RepositoryError(
            f"{branch} is being cut already", "Go on with --continue, or undo it with --abort."
        )


def _path(directory: Path, branch: str) -> Path:
    return directory / f"{version_name(branch)}.json"


def _parse(path: Path) -> ReplayRun:
    stored = json.loads(path.read_text(encoding="ascii"))
    moves = tuple(RunStep(**move | {"action": PlannedAction(move["action"])}) for move in stored.pop("moves"))
    stored |= {"phase": RunPhase(stored["phase"]), "conflicts": tuple(stored["conflicts"])}
    stored["differs"] = tuple(stored.get("differs", ()))
    stored["noted"] = tuple(Conflict(**one) for one in stored.get("noted", ()))
    stored["reused"] = tuple(
        Reused(**one | {"paths": tuple(one["paths"]), "moved": tuple(one.get("moved", ()))})
        for one in stored.get("reused", ())
    )
    return ReplayRun(moves=moves, **stored)
