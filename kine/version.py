"""The version of this kine: the release tag it was built from, or its commit."""

from __future__ import annotations

import functools
import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

DISTRIBUTION = "kine-etcd"  # the package's name in pyproject.toml
_COMMIT = re.compile(r"0\.0\.dev0\+g([0-9a-f]+)(\.dirty)?")


@functools.cache
def version() -> str:
    """`v0.16.4.vcluster.0` of a release, `dev-1234567890ab` of an untagged commit, else `dev`."""
    try:
        return shown(installed_version(DISTRIBUTION))
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "dev"


def shown(pep440: str) -> str:
    """A version in the form of the release tag, from which `forktools.build_version` derived it."""
    if match := _COMMIT.fullmatch(pep440):
        return f"dev-{match[1]}{'-dirty' if match[2] else ''}"
    if pep440.startswith("0.0.dev0"):
        return "dev"
    return "v" + pep440.replace("+", ".")
