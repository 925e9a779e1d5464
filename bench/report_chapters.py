"""The chapters of the whole report: servers and scenarios of each, with a Markdown file and plots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.server_launcher import Recipe, recipe, recipes

if TYPE_CHECKING:
    from pathlib import Path

_CALLS = ("create", "update", "get", "list", "page", "create-1", "get-1")


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter. `{go-kine}` before a backend's name means Go kine on it, if its binary is available."""

    name: str  # of the chapter's files
    title: str
    servers: tuple[str, ...]
    scenarios: tuple[str, ...]


CHAPTERS = (
    Chapter(
        "sqlite",
        "Performance on SQLite",
        ("kine-sqlite", "go-kine-sqlite", "etcd"),
        (
            *_CALLS, "relist", "delete", "count", "fanout-1", "fanout-100", "fanout-1000",
            "coldstart", "memory",
        ),
    ),
    Chapter(
        "watch",
        "Watch churn, a mixed profile and 10,000 watchers",
        (
            "kine-sqlite", "kine-postgres", "kine-mysql", "kine-nats", "etcd",
            "go-kine-sqlite", "go-kine-postgres", "go-kine-mysql", "go-kine-nats",
        ),
        ("churn-50", "churn-200", "churn-500", "churn-1000", "mixed", "fanout-10000"),
    ),
    Chapter("postgres", "Performance on PostgreSQL", ("kine-postgres", "go-kine-postgres"), _CALLS),
    Chapter("mysql", "Performance on MariaDB", ("kine-mysql", "go-kine-mysql"), _CALLS),
    Chapter(
        "nats", "Performance on NATS JetStream", ("kine-nats", "kine-nats-cluster", "go-kine-nats"), _CALLS
    ),
    Chapter("in-memory", "Performance without a database", ("kine-memory",), _CALLS),
)  # fmt: skip

_OPTIONS = "--listen-address 127.0.0.1:{port} --metrics-bind-address 0"
# For SQLite the values of its own default DSN, plus those needed for concurrent writers.
_SQLITE = "sqlite://{dir}/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
_GO_KINE = {
    "sqlite": f"--endpoint {_SQLITE}",
    # Without a limit it uses up the server's 100 connections, and fails.
    "postgres": "--endpoint {postgres} --datastore-max-open-connections 50",
    "mysql": "--endpoint {mysql} --datastore-max-open-connections 50",
    "nats": "--endpoint {nats}",
}


def servers(chapter: Chapter, go_kine: Path | None, go_kine_nats: Path | None) -> list[Recipe]:
    """The recipes of those servers of the chapter that this machine can start."""
    known = recipes()
    chosen = []
    for name in chapter.servers:
        backend = name.removeprefix("go-kine-")
        binary = go_kine_nats if backend == "nats" else go_kine
        if name in known:
            chosen.append(known[name])
        elif binary is not None:
            made = recipe(f"{name}={binary} {_OPTIONS} {_GO_KINE[backend]}")
            if backend == "sqlite":
                made = replace(made, durability="SQLite WAL, synchronous=NORMAL (its default)")
            chosen.append(made)
    return chosen
