"""The versions that an etcd server reports: its own, its cluster's, its storage's (etcd, api/version)."""

from __future__ import annotations

import json
from collections.abc import Iterable

_STORES_ITS_VERSION = (3, 6)  # the first that does


def cluster_version(version: str) -> str:
    """The version of a cluster of such members: the patch number is 0."""
    major, minor = _release(version)
    return f"{major}.{minor}.0"


def storage_version(version: str) -> str:
    """The storage version; empty before etcd 3.6, the first to store it."""
    return cluster_version(version) if _release(version) >= _STORES_ITS_VERSION else ""


def page(server: str, cluster: str, storage: str) -> bytes:
    """The JSON of `/version`, with a storage version if there is one."""
    told = {"etcdserver": server, "etcdcluster": cluster}
    if storage:
        told["storage"] = storage
    return json.dumps(told, separators=(",", ":")).encode()


def oldest(versions: Iterable[str]) -> str:
    """The lowest version, whose features a cluster of these members has."""
    return min(versions, key=_release)


def _release(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".", 2)
    return int(major), int(minor)
