"""Databases by the scheme of their endpoint. Adding one is a line here and a module of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.drivers.base import Log, Options

# A module has `connect(endpoint, options) -> Log`, which parses and checks and touches nothing.
# Imported when asked for: a server on SQLite does not load a PostgreSQL client.
MODULES = {
    "sqlite": "kine.drivers.sqlite",
    "litestream": "kine.drivers.sqlite",
    "postgres": "kine.drivers.postgres",
    "postgresql": "kine.drivers.postgres",
    "mysql": "kine.drivers.mysql",
    "memory": "kine.drivers.memory",
}
DEFAULT_SCHEME = "sqlite"


def connect(endpoint: str, options: Options) -> Log:
    """The log behind an endpoint, not yet opened; an empty endpoint means the default SQLite file.

    Raises ValueError with a text that never repeats the endpoint, which may hold a password.
    """
    scheme = endpoint.partition("://")[0] if "://" in endpoint else DEFAULT_SCHEME
    if scheme not in MODULES:
        known = ", ".join(sorted(f"{name}://" for name in MODULES))
        raise ValueError(f"the endpoint's scheme is not known; known are {known}")
    module = import_module(MODULES[scheme])
    return cast("Callable[[str, Options], Log]", module.connect)(endpoint, options)
