"""Which forktools this is: of its own package, or of the project's, whichever is installed."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTIONS = ("kine-forktools", "kine-etcd")


def version() -> str:
    """The version; empty where it runs from a checkout that was never installed."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
