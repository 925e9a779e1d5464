"""The version of forktools, from its own distribution or from the project's, whichever is installed."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTIONS = ("kine-forktools", "kine-etcd")


def version() -> str:
    """The version; empty in a checkout that was never installed."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
