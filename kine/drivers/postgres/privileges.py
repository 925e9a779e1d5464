"""The user's missing privileges on kine's tables, and the GRANT statements that give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection

from kine.drivers.sql.tables import RIGHTS

_LACKING = (
    "SELECT t.name, r.name FROM unnest(%s::text[]) AS t (name), unnest(%s::text[]) AS r (name)"
    " WHERE NOT has_table_privilege(quote_ident(t.name), r.name)"
)
# The sequence of an identity column needs no privilege. Another one needs USAGE or UPDATE for inserting;
# SELECT and UPDATE are for advancing it after a restore.
_SEQUENCE = (
    "SELECT s.name, has_sequence_privilege(s.name, 'USAGE, UPDATE') FROM pg_attribute,"
    " pg_get_serial_sequence('kine', 'id') AS s (name) WHERE s.name IS NOT NULL"
    " AND attrelid = 'kine'::regclass AND attname = 'id' AND attidentity = ''"
)
_WHO = "SELECT current_user, coalesce(current_schema(), 'public')"

_CLOSED = (
    "SELECT nspname FROM pg_namespace WHERE NOT has_schema_privilege(nspname, 'USAGE')"
    r" AND nspname = ANY(regexp_split_to_array(current_setting('search_path'), '\s*,\s*')) LIMIT 1"
)


async def user_and_schema(connection: AsyncConnection[Any]) -> tuple[str, str]:
    """The current user and the current schema, quoted as SQL identifiers."""
    row = await (await connection.execute(_WHO)).fetchone()
    assert row is not None
    return identifier(str(row[0])), identifier(str(row[1]))


async def closed_schema(connection: AsyncConnection[Any]) -> str:
    """A schema of the search_path that exists and that the user has no USAGE on; empty if there is none."""
    row = await (await connection.execute(_CLOSED)).fetchone()
    return identifier(str(row[0])) if row else ""


async def missing_grants(
    connection: AsyncConnection[Any], tables: Iterable[str], user: str
) -> tuple[list[str], list[str]]:
    """The privileges missing on these existing tables: descriptions for a message, and GRANT statements."""
    names = sorted(tables)
    cursor = await connection.execute(_LACKING, (names, list(RIGHTS)))
    lacking: dict[str, list[str]] = {name: [] for name in names}
    for table, right in await cursor.fetchall():
        lacking[table].append(right)
    alike: dict[tuple[str, ...], list[str]] = {}
    for table, rights in lacking.items():
        if rights:
            alike.setdefault(tuple(sorted(rights, key=RIGHTS.index)), []).append(table)
    told = [f"{', '.join(rights)} on {', '.join(on)}" for rights, on in alike.items()]
    grants = [f"GRANT {', '.join(rights)} ON {', '.join(on)} TO {user}" for rights, on in alike.items()]
    if "kine" in lacking:
        for sequence, usable in await (await connection.execute(_SEQUENCE)).fetchall():
            if not usable:
                told.append(f"USAGE on the sequence {sequence}")
                grants.append(f"GRANT USAGE, SELECT, UPDATE ON SEQUENCE {sequence} TO {user}")
    return told, grants


def in_schema(statements: Sequence[str], schema: str) -> str:
    """The statements in one line, with the search_path for a user who may have another one."""
    first = [] if schema == "public" else [f"SET search_path = {schema}"]
    return " ".join(f"{statement};" for statement in (*first, *statements))


def identifier(name: str) -> str:
    """The SQL identifier, quoted only if it must be: log formats escape quotes, and people copy from logs."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
