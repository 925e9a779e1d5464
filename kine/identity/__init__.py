"""Who says what a new database connection's password is. Adding a provider is a line here and a module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.identity.base import Provider

# A module has `provider() -> Provider`. Imported when asked for.
MODULES = {"aws": "kine.identity.aws"}


def provider(name: str) -> Provider:
    """Raises ValueError naming the known ones."""
    if name not in MODULES:
        raise ValueError(
            f"the identity provider {name!r} is not known; known are {', '.join(sorted(MODULES))}"
        )
    return cast("Callable[[], Provider]", import_module(MODULES[name]).provider)()
