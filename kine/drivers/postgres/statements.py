"""What PostgreSQL says in its own words."""

# ruff: noqa: S608 - made of constants only
from __future__ import annotations

from functools import lru_cache

# The key of the advisory lock; another for setting up. Go kine takes neither.
TURN_KEY = int.from_bytes(b"kine-log", "big") >> 1
SETUP_KEY = TURN_KEY ^ 1
CHANNEL = "kine"

# In one go: bound the waits of this transaction, announce it to other instances for when it commits, wait
# for our turn. Only a later statement sees what was committed while waiting.
BOUNDS = (
    "SELECT set_config('lock_timeout', %b, true),"
    " set_config('idle_in_transaction_session_timeout', '30s', true)"
)
TURN = f"{BOUNDS}, pg_notify('{CHANNEL}', %b), pg_advisory_xact_lock({TURN_KEY})"
TURN_BY_ROW = f"{BOUNDS}, pg_notify('{CHANNEL}', %b), (SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE)"

_CLAIM = (
    "WITH claim AS (UPDATE kine_writer SET batch = %(number)b,"
    " head = (SELECT coalesce(max(id), 0) FROM kine)"
    " WHERE id = %(writer)b AND batch < %(number)b RETURNING 1)"
)
_COLUMNS = "name, created, deleted, create_revision, prev_revision, lease, value, old_value"

# One row: half the time of the general form.
INSERT_ONE = (
    f"{_CLAIM} INSERT INTO kine ({_COLUMNS})"
    " SELECT %(name)b, %(created)b, %(deleted)b, %(create_revision)b, %(prev_revision)b, %(ttl)b,"
    " %(value)b::bytea,"
    " (SELECT value FROM kine WHERE id = %(prev_revision)b) FROM claim"
    " WHERE (%(prev_revision)b = 0 OR %(created)b = 1"
    " OR EXISTS (SELECT 1 FROM kine WHERE id = %(prev_revision)b))"
    " AND NOT EXISTS (SELECT 1 FROM kine WHERE name = %(name)b AND prev_revision = %(prev_revision)b)"
    " ON CONFLICT DO NOTHING RETURNING id, name"
)

# Any number of rows with one text, so that it is prepared once. Rows that cannot be appended are kept out
# before they take an id, as an id that is not used is a gap.
_GIVEN = (
    "given AS (SELECT * FROM unnest(%(names)b::text[], %(created)b::int8[], %(deleted)b::int8[],"
    " %(create_revisions)b::int8[], %(prev_revisions)b::int8[], %(ttls)b::int8[], %(values)b::bytea[],"
    " %(leases)b::int8[]) WITH ORDINALITY"
    " AS g (name, created, deleted, create_revision, prev_revision, ttl, value, lease, place))"
)
_INSERT = (
    f"INSERT INTO kine ({_COLUMNS})"
    " SELECT g.name, g.created, g.deleted, g.create_revision, g.prev_revision, g.ttl, g.value, p.value"
    " FROM given AS g LEFT JOIN kine AS p ON p.id = g.prev_revision"
)
_FREE = (
    " WHERE EXISTS (SELECT 1 FROM claim) AND (g.prev_revision = 0 OR g.created = 1 OR p.id IS NOT NULL)"
    " AND NOT EXISTS"
    " (SELECT 1 FROM kine AS c WHERE c.name = g.name AND c.prev_revision = g.prev_revision)"
)
_LEASED = (
    "leased AS (INSERT INTO kine_extra (id, lease, version)"
    " SELECT i.id, g.lease, 0 FROM inserted AS i JOIN given AS g ON g.name = i.name WHERE g.lease != 0)"
)
INSERT_MANY = (
    f"{_CLAIM}, {_GIVEN} {_INSERT}{_FREE} ORDER BY g.place ON CONFLICT DO NOTHING RETURNING id, name"
)
INSERT_MANY_LEASED = (
    f"{_CLAIM}, {_GIVEN}, inserted AS ({_INSERT}{_FREE} ORDER BY g.place"
    f" ON CONFLICT DO NOTHING RETURNING id, name), {_LEASED} SELECT id, name FROM inserted"
)
INSERT_ALL = (
    f"WITH {_GIVEN}, inserted AS ({_INSERT} ORDER BY g.place RETURNING id, name), {_LEASED}"
    " SELECT id, name FROM inserted ORDER BY id"
)
CLAIM = (
    "UPDATE kine_writer SET batch = %b, head = (SELECT coalesce(max(id), 0) FROM kine)"
    " WHERE id = %b AND batch < %b RETURNING head"
)

FILL = (
    "INSERT INTO kine"
    " (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    " SELECT g, 'gap-' || g, 0, 1, 0, 0, 0, NULL, NULL FROM unnest(%b::int8[]) AS g"
    " ON CONFLICT DO NOTHING RETURNING id"
)
VALUES = "SELECT id, coalesce(value, ''::bytea) FROM kine WHERE id = ANY(%b::int8[])"
SIZE = "SELECT pg_total_relation_size('kine')"
IN_USE = (
    "SELECT coalesce(n_live_tup::float8 / nullif(n_live_tup + n_dead_tup, 0), 1)"
    " FROM pg_stat_user_tables WHERE relid = 'kine'::regclass"
)


@lru_cache(maxsize=256)
def numbered(statement: str) -> str:
    """A neutral statement, in psycopg's notation."""
    return statement.replace("%", "%%").replace("?", "%b")
