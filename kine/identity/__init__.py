"""Identity providers: issue the credentials of new database connections.

To add a provider, write a module and add a line to `MODULES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.identity.base import Provider

# Each module has `provider(limit: float) -> Provider`, and is imported only if its provider is used.
MODULES = {"aws": "kine.identity.rds_iam"}

LIMIT = 15.0  # seconds


def provider(name: str, limit: float = LIMIT) -> Provider:
    """The provider of this name. `limit` is how long a new connection may wait for it, in seconds.

    Raises ValueError, which names the known providers.
    """
    if name not in MODULES:
        raise ValueError(
            f"the identity provider {name!r} is not known; known are {', '.join(sorted(MODULES))}"
        )
    return cast("Callable[[float], Provider]", import_module(MODULES[name]).provider)(limit)
