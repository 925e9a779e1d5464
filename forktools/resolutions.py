"""Conflict resolutions by people, recorded for reuse when a later line is cut.

`refs/forktools/resolutions` holds for each conflicted file the text with its markers, the merged texts, the
resolved text, and the reason. A resolution is reused if the change from the marked text to the resolved text
applies to the new file without a conflict and leaves no marker. Otherwise the hunks are compared
(`forktools.hunk_resolution`), because a line near a conflict may have moved. The resolutions made when a line
was cut from the one before it are read from its commits, too. git's own rerere is not used: its directory
would turn it on for all merges of the user.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from forktools import hunk_resolution, isolated_git
from forktools.git_repository import ask, run
from forktools.hunk_resolution import Stages
from forktools.merge_changes import merge_trees, tree_before
from forktools.sanitize import decode, encode
from forktools.settings import current

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import git

    from forktools.commits import Commit

REF = "refs/forktools/resolutions"

_MARKER = re.compile(rb"^(<{7}|\|{7}|>{7})( [^\n]*)?$", re.MULTILINE)
_STAGES = ("base", "ours", "theirs")
_OPENED = re.compile(rb"^<{7}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A file in conflict: its path, the id of its text without the names after the markers, and the ids of
    the merged texts (empty where there was none)."""

    path: str
    before: str
    base: str = ""
    ours: str = ""
    theirs: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The resolution of a conflict; `why` is the reason that was given if the resolved commit makes another
    change. `stages` holds the merged texts, None in records of older versions."""

    path: str
    before: bytes
    after: bytes
    why: str
    stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class Reuse:
    """How a known resolution was reused: the reasons given then, and whether lines around the conflict had
    moved since."""

    whys: tuple[str, ...]
    moved: bool


def noted(repo: git.Repo, place: Path, paths: Sequence[str]) -> tuple[Conflict, ...]:
    """The conflicts of `paths` in the work tree; files without markers are left out."""
    found = []
    for path in paths:
        text = _normal(place / path)
        if text is not None:
            found.append(Conflict(path, _store(repo, text), *_staged(repo, place, path)))
    return tuple(found)


def record(repo: git.Repo, conflicts: Sequence[Conflict], commit: str, why: str) -> None:
    """Records how `commit` resolved the conflicts."""
    made = []
    for conflict in conflicts:
        status, after, _ = run(repo, "cat-file", "blob", f"{commit}:{conflict.path}")
        if status == 0 and not _OPENED.search(after):  # else it was removed, or the markers are its content
            made.append((conflict, after))
    _keep(repo, made, f"how {commit[:12]} settled its conflicts", why)


def keep(repo: git.Repo, found: Sequence[Resolution], where: str) -> None:
    """Records the resolutions that `learned` read from the commits of the line `where`, unless known."""
    known = {(one.path, one.before) for one in kept(repo)}
    new = [one for one in found if (one.path, one.before) not in known]
    for why in dict.fromkeys(one.why for one in new):
        made = [(_stored(repo, one), one.after) for one in new if one.why == why]
        _keep(repo, made, f"how {where} settled its conflicts", why)


def _keep(repo: git.Repo, made: Sequence[tuple[Conflict, bytes]], title: str, why: str) -> None:
    entries = []
    for conflict, after in made:
        name = sha256(encode(f"{conflict.path}\0{conflict.before}")).hexdigest()[:40]
        parts = {
            "path": _store(repo, encode(conflict.path)),
            "before": conflict.before,
            "after": _store(repo, after),
            "why": _store(repo, encode(why)),
        }
        stages = {name: blob for name in _STAGES if (blob := getattr(conflict, name))}
        entries.append(
            (name, _tree(repo, {key: ("100644 blob", blob) for key, blob in (parts | stages).items()}))
        )
    if not entries:
        return
    status, found, _ = run(repo, "rev-parse", "--verify", "--quiet", f"{REF}^{{commit}}")
    head = decode(found).strip() if status == 0 else ""
    before = {name: ("040000 tree", sha) for sha, name in _listed(repo, head)} if head else {}
    tree = _tree(repo, before | {name: ("040000 tree", sha) for name, sha in entries})
    parents = ("-p", head) if head else ()
    message = f"chore({current().scope}): {title}"
    commit = decode(ask(repo, "commit-tree", tree, *parents, "-m", message)).strip()
    ask(repo, "update-ref", "-m", "forktools: resolved", REF, commit, head)


def reuse(repo: git.Repo, place: Path, paths: Sequence[str], known: Sequence[Resolution]) -> dict[str, Reuse]:
    """Resolves the conflicts of `paths` as known resolutions did, where they apply, and stages the files."""
    used: dict[str, Reuse] = {}
    for path in paths:
        now = _normal(place / path)
        if now is None:
            continue
        of_path = [one for one in known if one.path == path]
        settled, how = _as_it_was(repo, now, of_path) or _by_hunks(repo, place, path, of_path) or (None, None)
        if settled is not None and how is not None:
            (place / path).write_bytes(settled)
            ask(repo, "add", "--", f":(literal){path}", cwd=place)
            used[path] = how
    return used


def learned(repo: git.Repo, pairs: Iterable[tuple[Commit, Commit, str]]) -> list[Resolution]:
    """The resolutions, in each second commit, of the conflicts from picking the first onto the second one's
    parent; the third item is the reason that was given for a difference."""
    found = []
    for old, by, why in pairs:
        base, ours, theirs = tree_before(repo, old), tree_before(repo, by), f"{old.sha}^{{tree}}"
        _, conflicts = merge_trees(repo, base, ours, theirs)
        for path in conflicts:
            texts = [_blob(repo, tree, path) for tree in (base, ours, theirs, by.sha)]
            if texts[3] is None or _OPENED.search(texts[3]) or texts[1] is None or texts[2] is None:
                continue
            stages = Stages(texts[0] or b"", texts[1], texts[2])
            marked = _marked(repo, stages)
            if marked is not None:
                found.append(Resolution(path, marked, texts[3], why, stages))
    return found


def kept(repo: git.Repo) -> Iterator[Resolution]:
    """The recorded resolutions; damaged records are skipped."""
    status, found, _ = run(repo, "rev-parse", "--verify", "--quiet", f"{REF}^{{commit}}")
    for sha, _ in _listed(repo, decode(found).strip()) if status == 0 else ():
        names = ("path", "before", "after", "why")
        text = {name: _part(repo, f"{sha}:{name}") for name in (*names, *_STAGES)}
        path, before, after, why = (text[name] for name in names)
        if path is None or before is None or after is None or why is None:
            continue
        ours, theirs = text["ours"], text["theirs"]
        whole = ours is not None and theirs is not None
        stages = Stages(text["base"] or b"", ours or b"", theirs or b"") if whole else None
        yield Resolution(decode(path), before, after, decode(why), stages)


def _as_it_was(repo: git.Repo, now: bytes, known: Sequence[Resolution]) -> tuple[bytes, Reuse] | None:
    for one in known:
        settled = _applied(repo, now, one)
        if settled is not None:
            return settled, Reuse((one.why,), moved=False)
    return None


def _by_hunks(
    repo: git.Repo, place: Path, path: str, known: Sequence[Resolution]
) -> tuple[bytes, Reuse] | None:
    """The file with each hunk resolved as a similar one was, and the reuse with its reasons."""
    blobs = [_part(repo, name, place) if name else b"" for name in _staged(repo, place, path)]
    base, ours, theirs = blobs
    if base is None or ours is None or theirs is None:
        return None
    parts = hunk_resolution.split(repo, Stages(base, ours, theirs))
    if parts is None:
        return None
    told: dict[Resolution, tuple[hunk_resolution.Settled, ...]] = {}
    for one in known:
        if one.stages is not None:
            hunks, alone = hunk_resolution.settled(repo, one.stages, one.after)
            # Other edits by the person are reused only if the incoming change is the commit that resulted
            # then.
            if alone or hunk_resolution.same_change((base, theirs), (one.stages.ours, one.after)):
                told[one] = hunks
    settled = hunk_resolution.settle(parts, [hunk for own in told.values() for hunk in own])
    if settled is None or _OPENED.search(settled):
        return None
    now = [part for part in parts if isinstance(part, hunk_resolution.Hunk)]
    asked = [
        one.why
        for one, own in told.items()
        if any(hunk_resolution.carried(hunk, like) is not None for hunk in now for like in own)
    ]
    return settled, Reuse(tuple(dict.fromkeys(asked)), moved=True)


def _applied(repo: git.Repo, now: bytes, resolution: Resolution) -> bytes | None:
    """The file with the resolution; None if that was for another conflict, or for a part of this one."""
    with tempfile.TemporaryDirectory(prefix="forktools-") as scratch:
        names = ("now", "before", "after")
        for name, text in zip(names, (now, resolution.before, resolution.after), strict=True):
            (Path(scratch) / name).write_bytes(text)
        given = [str(Path(scratch) / name) for name in names]
        status, settled, _ = run(repo, "merge-file", "-p", "--quiet", *given)
    return settled if status == 0 and not _OPENED.search(settled) else None


def _listed(repo: git.Repo, commit: str) -> list[tuple[str, str]]:
    lines = decode(ask(repo, "ls-tree", commit)).splitlines()
    return [(line.split()[2], line.split("\t", 1)[1]) for line in lines]


def _normal(path: Path) -> bytes | None:
    """A conflicted file without the names after its markers; None if it has no markers."""
    if path.is_symlink() or not path.is_file():
        return None
    text = _unnamed(path.read_bytes())
    return text if _OPENED.search(text) else None


def _unnamed(text: bytes) -> bytes:
    return _MARKER.sub(lambda marker: marker[1], text)


def _staged(repo: git.Repo, place: Path, path: str) -> tuple[str, str, str]:
    """The ids of the file's merge stages: base, ours and theirs."""
    listing = ask(repo, "ls-files", "--unmerged", "-z", "--", f":(literal){path}", cwd=place)
    heads = [line.partition(b"\t")[0].decode().split() for line in listing.split(b"\0") if line]
    stages = {number: sha for mode, sha, number in heads if mode.startswith("100")}
    return stages.get("1", ""), stages.get("2", ""), stages.get("3", "")


def _marked(repo: git.Repo, stages: Stages) -> bytes | None:
    """The file with its markers, without names; None if git finds no conflict in its lines."""
    with tempfile.TemporaryDirectory(prefix="forktools-") as scratch:
        files = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for file, text in zip(files, (stages.ours, stages.base, stages.theirs), strict=True):
            file.write_bytes(text)
        status, text, _ = isolated_git.run(repo, "merge-file", "-p", *map(str, files))
    return _unnamed(text) if 0 < status < 128 else None


def _stored(repo: git.Repo, found: Resolution) -> Conflict:
    stages = found.stages or Stages(b"", b"", b"")
    texts = (found.before, stages.base, stages.ours, stages.theirs)
    return Conflict(found.path, *(_store(repo, text) for text in texts))


def _blob(repo: git.Repo, tree: str, path: str) -> bytes | None:
    """A file of a tree; the tree may exist in the scratch repository only."""
    sha = decode(isolated_git.ask(repo, "rev-parse", tree)).strip()
    status, text, _ = isolated_git.run(repo, "cat-file", "blob", f"{sha}:{path}")
    return None if status else text


def _part(repo: git.Repo, name: str, place: Path | None = None) -> bytes | None:
    status, content, _ = run(repo, "cat-file", "blob", name, cwd=place)
    return None if status else content


def _store(repo: git.Repo, content: bytes) -> str:
    return decode(ask(repo, "hash-object", "-w", "--stdin", "--no-filters", stdin=content)).strip()


def _tree(repo: git.Repo, entries: dict[str, tuple[str, str]]) -> str:
    listing = "".join(f"{kind} {sha}\t{name}\n" for name, (kind, sha) in entries.items())
    return decode(ask(repo, "mktree", stdin=encode(listing))).strip()
