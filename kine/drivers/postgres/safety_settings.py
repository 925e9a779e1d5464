"""Checks of the server's settings and tables that durable, unique writes depend on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kine.drivers.base import DriverError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

log = logging.getLogger(__name__)

_UNLOGGED = (
    "SELECT c.relname FROM pg_class AS c WHERE c.relpersistence <> 'p' AND c.oid IN"
    " (to_regclass('kine'), to_regclass('kine_extra'), to_regclass('kine_lease'), to_regclass('kine_writer'))"
    " ORDER BY c.relname"
)
_KEYS = (
    "SELECT array_agg(a.attname::text ORDER BY k.place) FROM pg_index AS i"
    " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)"
    " JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
    " WHERE i.indrelid = 'kine'::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL"
    " GROUP BY i.indexrelid"
)
_SETTINGS = (
    "SELECT name, reset_val FROM pg_settings WHERE name IN"
    " ('default_transaction_isolation', 'synchronous_commit', 'fsync', 'full_page_writes')"
)


async def check_tables(connection: AsyncConnection[Any]) -> None:
    """Checks persistence and unique indexes. Raises DriverError, with the statements that repair them."""
    unlogged = [row[0] for row in await (await connection.execute(_UNLOGGED)).fetchall()]
    if unlogged:
        statements = " ".join(f"ALTER TABLE {table} SET LOGGED;" for table in unlogged)
        raise DriverError(
            f"the table {unlogged[0]} is not logged: a crash of the server empties it. Stop every kine on"
            f" this database and run {statements}"
        )
    unique = [row[0] for row in await (await connection.execute(_KEYS)).fetchall()]
    if ["id"] not in unique:
        raise DriverError(
            "the table kine has no primary key, as after a copy of the table; run"
            " ALTER TABLE kine ADD PRIMARY KEY (id);"
        )
    if ["name", "prev_revision"] not in unique:
        raise DriverError(
            "the table kine lacks its unique index, on which writers of several instances rest, or it is not"
            " valid; run DROP INDEX kine_name_prev_revision_uindex;"
            " CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);"
        )


async def serializes(connection: AsyncConnection[Any]) -> bool:
    """Whether the default isolation level is not READ COMMITTED. Also logs settings that may lose data."""
    settings: dict[str, str] = dict(await (await connection.execute(_SETTINGS)).fetchall())
    for name in ("fsync", "full_page_writes"):
        if settings.get(name) == "off":
            log.warning(
                "the server's %s is off: its data may be damaged, and acknowledged writes lost, when its"
                " machine crashes; turn it on",
                name,
            )
    if settings.get("synchronous_commit") == "off":
        log.info("synchronous_commit is off by default: kine turns it on for its own transactions")
    return settings.get("default_transaction_isolation", "read committed") != "read committed"
