"""The version of a build in PEP 440 form, from its tag or from the commit it is built from.

setuptools calls this at build time (`[tool.setuptools.dynamic]` in both pyproject.toml). `v0.16.4.vcluster.0`
becomes `0.16.4+vcluster.0`, `v0.16.4` becomes `0.16.4`, a commit without a tag `0.0.dev0+g1234567890ab`.
`kine.version` converts them back.
"""

from __future__ import annotations

import os
import re
import subprocess
from email.parser import Parser
from pathlib import Path

VARIABLE = "KINE_VERSION"  # the tag, for a build without a repository (an image's)
_TAG = re.compile(r"v([0-9]+\.[0-9]+\.[0-9]+)(?:[.+-]([a-z0-9]+(?:[.-][a-z0-9]+)*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def of_tag(tag: str) -> str | None:
    """The version for a tag; None if it is not vX.Y.Z, with or without words after it."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    return f"{match[1]}+{match[2].replace('-', '.')}" if match[2] else match[1]


def of_commit(sha: str, changed: bool = False) -> str:
    """The version for a commit without a tag, or with changes that are in no commit."""
    return f"0.0.dev0+g{sha[:12]}" + (".dirty" if changed else "")


def version(root: Path) -> str:
    """The version of the sources in `root`: from the variable, an unpacked archive, or the repository.

    Raises ValueError when the variable holds neither a tag nor a commit.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        found = of_commit(given) if _COMMIT.fullmatch(given) else of_tag(given)
        if found is None:
            raise ValueError(
                f"{VARIABLE}={given} is not a release tag such as v0.16.4.vcluster.0, nor a full commit id"
            )
        return found
    archive = root / "PKG-INFO"
    if archive.is_file():
        return str(Parser().parsestr(archive.read_text(encoding="utf-8"), headersonly=True)["Version"])
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():  # the sources lie inside another repository
        return "0.0.dev0+unknown"
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    tags = (_git(root, "tag", "--points-at", "HEAD") or "").splitlines()
    released = [found for tag in tags if (found := of_tag(tag))]
    if released and not changed:  # the fork's tags take precedence over upstream's
        return max(released, key=lambda found: ("+" in found, [int(n) for n in re.findall(r"\d+", found)]))
    return of_commit(_git(root, "rev-parse", "HEAD") or "unknown", changed)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            ["git", *arguments],  # noqa: S607 - as everywhere, the git on PATH
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _root() -> Path:
    """The source directory: the parent of this package, or this one in an archive of forktools alone."""
    here = Path(__file__).resolve().parent
    return here if (here / "PKG-INFO").is_file() else here.parent


VERSION = version(_root())
