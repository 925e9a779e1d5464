"""Who says what a new database connection's password is. Adding a provider is a line here and a module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.identity.base import Provider

# A module has `provider(limit: float) -> Provider`. Imported when asked for.
MODULES = {"aws": "kine.identity.rds_iam"}

LIMIT = 15.0  # seconds


def provider(name: str, limit: float = LIMIT) -> Provider:
    """Raises ValueError naming the known ones. `limit` is how long a new connection may wait, in seconds."""
    if name not in MODULES:
        raise ValueError(
            f"the identity provider {name!r} is not known; known are {', '.join(sorted(MODULES))}"
        )
    return cast("Callable[[float], Provider]", import_module(MODULES[name]).provider)(limit)
