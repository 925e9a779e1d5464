"""Registry of database drivers by endpoint scheme. A new driver is a line in `MODULES` and a module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from kine.drivers.base import Log, Options
    from kine.drivers.sql.read_only_view import Inspector

# A module has `connect(endpoint, options) -> Log`, which parses and checks the endpoint, without I/O.
# Modules are imported on demand: a server on SQLite does not load a PostgreSQL client.
MODULES = {
    "sqlite": "kine.drivers.sqlite",
    "litestream": "kine.drivers.sqlite",
    "postgres": "kine.drivers.postgres",
    "postgresql": "kine.drivers.postgres",
    "mysql": "kine.drivers.mysql",
    "nats": "kine.drivers.nats",
    "jetstream": "kine.drivers.nats",
    "memory": "kine.drivers.memory",
}
NO_T4 = (
    "t4, Go kine's embedded store on S3, is not supported; use litestream://PATH with Litestream for SQLite"
    " that is copied to S3, or postgres://, mysql:// or nats:// for several instances"
)
# Their modules also have `of_one_process(endpoint, options) -> bool`.
_MAY_BE_OF_ONE_PROCESS = ("memory", "nats", "sqlite")
_DEFAULT = "sqlite://"
# Endpoints of a real etcd, not of a database: `kine.remote` forwards calls to it.
REMOTE = ("http", "https", "unix")


def connect(endpoint: str, options: Options) -> Log:
    """Returns the log of an endpoint, not yet opened; an empty endpoint means the default SQLite file.

    Raises ValueError with a text that never repeats the endpoint, which may hold a password.
    """
    return cast("Callable[[str, Options], Log]", _module(endpoint).connect)(endpoint, options)


def inspect(endpoint: str, options: Options) -> AbstractAsyncContextManager[Inspector]:
    """Returns a read-only view of an endpoint's database. Raises ValueError, as `connect` does."""
    if not can_inspect(endpoint):
        raise ValueError(
            "only SQLite, PostgreSQL and MySQL can be looked into; this endpoint has no table kine"
        )
    return cast(
        "Callable[[str, Options], AbstractAsyncContextManager[Inspector]]", _module(endpoint).inspect
    )(endpoint, options)


def can_inspect(endpoint: str) -> bool:
    """Whether `inspect` supports the endpoint. Raises ValueError for an unknown scheme."""
    return endpoint.partition("://")[0] not in REMOTE and hasattr(_module(endpoint), "inspect")


def of_one_process(endpoint: str, options: Options) -> bool:
    """Whether the database lives in one process, so that no other can serve it. Raises as `connect` does."""
    if endpoint.partition("://")[0] not in _MAY_BE_OF_ONE_PROCESS:
        return False  # without importing the module, which may be large
    return bool(_module(endpoint).of_one_process(endpoint, options))


def is_new(endpoint: str, options: Options) -> bool:
    """Whether the endpoint is a file that opening will create, as it does not exist. Raises as `connect`."""
    module = _module(endpoint)
    return bool(module.is_new(endpoint, options)) if hasattr(module, "is_new") else False


def _module(endpoint: str) -> ModuleType:
    scheme, separator, _ = (endpoint or _DEFAULT).partition("://")
    known = ", ".join(sorted(f"{name}://" for name in (*MODULES, *REMOTE)))
    if not separator:  # never taken for a file's name: it may be a mistyped URL, password included
        raise ValueError(f"the endpoint has no scheme; write sqlite://PATH for a file; known are {known}")
    if scheme == "t4":
        raise ValueError(NO_T4)
    if scheme not in MODULES:
        raise ValueError(f"the endpoint's scheme is not known; known are {known}")
    return import_module(MODULES[scheme])
