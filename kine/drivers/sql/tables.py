"""The tables by name, and what makes them: see `schema`, from which the statements are written."""

from __future__ import annotations

from kine.drivers.sql.ddl import INDEXES, TABLES

__all__ = [
    "COLUMNS",
    "EVERYWHERE",
    "INDEXES",
    "KINE",
    "RIGHTS",
    "SHARED",
    "TABLES",
    "TURN",
    "UNUSED_ON_SQLITE",
    "in_one_line",
]

KINE, TURN = "kine", "kine_turn"
EVERYWHERE = (KINE, "kine_extra", "kine_lease")
SHARED = (*EVERYWHERE, "kine_writer")  # where several instances write to one database

RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")  # that a user needs on each

# Of the table `kine`.
COLUMNS = frozenset(
    ("id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value")
)

# By no plan of Go kine's queries or ours are these used on SQLite, and each costs an update a page of its own
# (bench scenario `update`): we do not make them. A Go kine that opens the database does; then they stay.
UNUSED_ON_SQLITE = frozenset({"kine_name_index", "kine_prev_revision_index"})


def in_one_line(statement: bytes) -> str:
    """For whoever may run it, copied from a message."""
    return " ".join(statement.decode().split())
