"""A scratch repository to run git in: the same objects, without the repository's configuration.

A verdict must not depend on where it is computed. Attributes (`merge=union`), configuration (`merge.default`,
`diff.orderFile`, a merge driver, which git would even execute), the environment, grafts and replacements all
change git's answers. So questions about commits go to a scratch repository without any of these. It reads
the real repository's objects and keeps new ones to itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from forktools import git_repository

if TYPE_CHECKING:
    from collections.abc import Mapping

    import git

_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "0",
    "GIT_CONFIG_PARAMETERS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_DIFF_OPTS": "",
    # A fixed identity: synthetic commits never leave the scratch repository.
    "GIT_AUTHOR_NAME": "forktools",
    "GIT_AUTHOR_EMAIL": "forktools",
    "GIT_AUTHOR_DATE": "@0 +0000",
    "GIT_COMMITTER_NAME": "forktools",
    "GIT_COMMITTER_EMAIL": "forktools",
    "GIT_COMMITTER_DATE": "@0 +0000",
    "LC_ALL": "C",
}


def ask(
    repo: git.Repo, *arguments: str, stdin: bytes | BinaryIO | None = None, output: BinaryIO | None = None
) -> bytes:
    """As `git_repository.ask`, about objects given by full id. Raises RepositoryError on any status but 0."""
    room = _room_of(repo)
    return git_repository.ask(
        repo, *_PINNED, *arguments, stdin=stdin, output=output, environment=_environment(room), cwd=room
    )


def run(
    repo: git.Repo, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """As `git_repository.run`, about objects given by full id."""
    room = _room_of(repo)
    given = _environment(room) | dict(environment or {})
    return git_repository.run(repo, *_PINNED, *arguments, stdin=stdin, environment=given, cwd=room)


# The two files that git reads from a user's home directory by default.
_PINNED = ("-c", "core.attributesFile=/dev/null", "-c", "core.excludesFile=/dev/null")


def _environment(room: Path) -> dict[str, str]:
    return _ENVIRONMENT | {"GIT_DIR": str(room)}


def _room_of(repo: git.Repo) -> Path:
    """The scratch repository for `repo`: created once, and removed at the end of the process."""
    home = str(repo.git_dir)
    if home not in _rooms:
        for other in [*_rooms]:
            _rooms.pop(other).cleanup()
        _rooms[home] = _make_room(repo)
    return Path(_rooms[home].name)


_rooms: dict[str, tempfile.TemporaryDirectory[str]] = {}  # by the repository's git directory; at most one


def _make_room(repo: git.Repo) -> tempfile.TemporaryDirectory[str]:
    objects = git_repository.ask(repo, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    kind = git_repository.ask(repo, "rev-parse", "--show-object-format").decode().strip()
    place = tempfile.TemporaryDirectory(prefix="forktools-")
    room = Path(place.name)
    for part in ("objects/info", "objects/pack", "refs"):
        (room / part).mkdir(parents=True)
    (room / "objects" / "info" / "alternates").write_bytes(objects)
    (room / "HEAD").write_text("ref: refs/heads/none\n")
    version, extension = (0, "") if kind == "sha1" else (1, f"[extensions]\n\tobjectFormat = {kind}\n")
    (room / "config").write_text(f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extension}")
    return place
