"""The whole report: which servers are measured in what, a Markdown file with plots for each chapter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.server_launcher import Recipe, recipe, recipes

if TYPE_CHECKING:
    from pathlib import Path

_CALLS = ("create", "update", "get", "list", "page", "create-1", "get-1")


@dataclass(frozen=True, slots=True)
class Chapter:
    """One report. `{go-kine}` before a backend's name stands for Go kine on it, if there is its binary."""

    name: str  # of its files
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
# Of SQLite what its own default sets, plus what it needs not to fail when clients write at once.
_SQLITE = "sqlite://{dir}/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
_GO_KINE = {
    "sqlite": f"--endpoint {_SQLITE}",
    # Without a bound it uses up the server's 100 connections, and fails.
    "postgres": "--endpoint {postgres} --datastore-max-open-connections 50",
    "mysql": "--endpoint {mysql} --datastore-max-open-connections 50",
    "nats": "--endpoint {nats}",
}


def servers(chapter: Chapter, go_kine: Path | None, go_kine_nats: Path | None) -> list[Recipe]:
    """How to start those of the chapter's servers that are on this machine."""
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
