"""Names of the tables, and the statements that create them, generated from `table_definitions`."""

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

RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")  # privileges that a user needs on each table

# Of the table `kine`.
COLUMNS = frozenset(
    ("id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value")
)

# On SQLite, no plan of Go kine's queries or this kine's uses these, and each costs an update a page of its
# own (bench scenario `update`), so they are not created. A Go kine that opens the database creates them;
# then they stay.
UNUSED_ON_SQLITE = frozenset({"kine_name_index", "kine_prev_revision_index"})


def in_one_line(statement: bytes) -> str:
    """The statement in one line, to be copied from a message."""
    return " ".join(statement.decode().split())
