"""Exhaustion of 32-bit ids, in tables created by old releases of Go kine."""

from __future__ import annotations

# Query for the highest id that the table can hold, and the newest, by dialect. SQLite's always had 64 bits.
QUESTION = {
    "postgresql": (
        "SELECT (SELECT least("
        "min(CASE WHEN atttypid = 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END),"
        " min((SELECT s.seqmax FROM pg_sequence AS s"
        " WHERE s.seqrelid = pg_get_serial_sequence('kine', 'id')::regclass)))"
        " FROM pg_attribute WHERE attrelid = 'kine'::regclass"
        " AND attname IN ('id', 'create_revision', 'prev_revision')), (SELECT max(id) FROM kine)"
    ),
    "mysql": (
        "SELECT (SELECT min(CASE WHEN data_type != 'int' THEN 9223372036854775807"
        " WHEN column_type LIKE '%unsigned%' THEN 4294967295 ELSE 2147483647 END)"
        " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'kine'"
        " AND column_name IN ('id', 'create_revision', 'prev_revision')), (SELECT max(id) FROM kine)"
    ),
}
USED_UP = (
    "the table's ids are 32-bit numbers and the last one is used: restart kine with KINE_SCHEMA_MIGRATION=1,"
    " which makes them 64 bits wide"
)
_SHARE = 0.5  # the share of used ids from which on the user is warned


def warning(highest: int | None, newest: int | None) -> str:
    """The warning for the user; empty while plenty of ids are left."""
    if not highest or not newest or newest < highest * _SHARE:
        return ""
    if newest >= highest:
        return USED_UP
    return (
        f"revision {newest} of at most {highest} is reached, as the table's ids are 32-bit numbers: restart"
        " kine with KINE_SCHEMA_MIGRATION=1 before the last one is used, which makes them 64 bits wide"
    )
