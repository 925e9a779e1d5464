"""PostgreSQL's SQL statements, where they differ from those of `kine.drivers.sql.statements`."""

# ruff: noqa: S608 - made of constants only
from __future__ import annotations

from functools import lru_cache

from kine.drivers.sql.id_gaps import PREFIX

# The keys of the advisory locks for writing and for setup. Go kine takes neither.
TURN_KEY = int.from_bytes(b"kine-log", "big") >> 1
SETUP_KEY = TURN_KEY ^ 1
CHANNEL = "kine"

# One statement sets the transaction's timeouts, notifies other instances on commit, and waits for the
# writers' lock. Only a later statement sees what was committed during the wait.
BOUNDS = (
    "SELECT set_config('lock_timeout', %(lock_timeout)b, true),"
    " set_config('idle_in_transaction_session_timeout', %(idle_timeout)b, true),"
    # With `off`, a commit is acknowledged before it is durable. Stricter settings are left as they are.
    " set_config('synchronous_commit',"
    " CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END, true)"
)
_ANNOUNCED = f"{BOUNDS}, pg_notify('{CHANNEL}', %(origin)b)"
TURN = f"{_ANNOUNCED}, pg_advisory_xact_lock({TURN_KEY})"
TURN_BY_ROW = f"{_ANNOUNCED}, (SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE)"

_CLAIM = (
    "WITH claim AS (UPDATE kine_writer SET batch = %(number)b,"
    " head = (SELECT coalesce(max(id), 0) FROM kine)"
    " WHERE id = %(writer)b AND batch < %(number)b RETURNING head)"
)
# A division by zero aborts the transaction if the sequence gives an id not above every row and the highest
# id the caller has seen, or if the newest row is below what the caller has applied.
_NEW_ID = "(SELECT 1 / (kine.id > greatest(head, %(floor)b) AND head >= %(head)b)::int FROM claim)"
_COLUMNS = "name, created, deleted, create_revision, prev_revision, lease, value, old_value"

# The unique index may lack a key's first row, compacted away, while a row that replaced it exists.
_SINCE = "EXISTS (SELECT 1 FROM kine AS c WHERE c.name = {name} AND c.id > {prev} AND c.deleted = 0 OFFSET 0)"

_OLD_VALUE = "(SELECT value FROM kine WHERE id = %(prev_revision)b)"
_OLD_VALUES = "(SELECT p.value FROM kine AS p WHERE p.id = g.prev_revision)"

# One row: takes half the time of the general form.
INSERT_ONE = (
    f"{_CLAIM} INSERT INTO kine ({_COLUMNS})"
    " SELECT %(name)b, %(created)b, %(deleted)b, %(create_revision)b, %(prev_revision)b, %(ttl)b,"
    " %(value)b::bytea,"
    f" {_OLD_VALUE} FROM claim"
    " WHERE CASE WHEN %(created)b = 1"
    f" THEN NOT {_SINCE.format(name='%(name)b', prev='%(prev_revision)b')}"
    " ELSE %(prev_revision)b = 0"
    " OR EXISTS (SELECT 1 FROM kine WHERE id = %(prev_revision)b AND name = %(name)b) END"
    " AND NOT EXISTS (SELECT 1 FROM kine WHERE name = %(name)b AND prev_revision = %(prev_revision)b)"
    f" ON CONFLICT DO NOTHING RETURNING id, name, {_NEW_ID}"
)

# Any number of rows with one text, so that it is prepared once. Conflicting rows are filtered out before
# they take an id, as an unused id is a gap.
_GIVEN = (
    "given AS (SELECT * FROM unnest(%(names)b::text[], %(creations)b::int8[], %(deletions)b::int8[],"
    " %(create_revisions)b::int8[], %(prev_revisions)b::int8[], %(ttls)b::int8[], %(values)b::bytea[],"
    " %(leases)b::int8[]) WITH ORDINALITY"
    " AS g (name, created, deleted, create_revision, prev_revision, ttl, value, lease, place))"
)
_INSERT = (
    f"INSERT INTO kine ({_COLUMNS})"
    " SELECT g.name, g.created, g.deleted, g.create_revision, g.prev_revision, g.ttl, g.value,"
    f" {_OLD_VALUES} FROM given AS g"
)
# OFFSET 0 keeps the planner from joining these subqueries. A joined plan, made for an empty table, scans the
# whole table for each batch until the next ANALYZE (bench scenario `update`: 5 times the server's CPU).
_FREE = (
    " WHERE EXISTS (SELECT 1 FROM claim)"
    f" AND CASE WHEN g.created = 1 THEN NOT {_SINCE.format(name='g.name', prev='g.prev_revision')}"
    " ELSE g.prev_revision = 0"
    " OR EXISTS (SELECT 1 FROM kine AS p WHERE p.id = g.prev_revision AND p.name = g.name OFFSET 0)"
    " END"
    " AND NOT EXISTS"
    " (SELECT 1 FROM kine AS c WHERE c.name = g.name AND c.prev_revision = g.prev_revision OFFSET 0)"
)
_LEASED = (
    "leased AS (INSERT INTO kine_extra (id, lease, version)"
    " SELECT i.id, g.lease, 0 FROM inserted AS i JOIN given AS g ON g.name = i.name WHERE g.lease != 0)"
)
INSERT_MANY = (
    f"{_CLAIM}, {_GIVEN} {_INSERT}{_FREE} ORDER BY g.place ON CONFLICT DO NOTHING"
    f" RETURNING id, name, {_NEW_ID}"
)
INSERT_MANY_LEASED = (
    f"{_CLAIM}, {_GIVEN}, inserted AS ({_INSERT}{_FREE} ORDER BY g.place"
    f" ON CONFLICT DO NOTHING RETURNING id, name, {_NEW_ID} AS new),"
    f" {_LEASED} SELECT id, name, new FROM inserted"
)
# Deletions in a full database: the old value is not copied.
INSERT_ONE_BRIEF = INSERT_ONE.replace(_OLD_VALUE, "NULL::bytea")
INSERT_MANY_BRIEF = INSERT_MANY.replace(_OLD_VALUES, "NULL::bytea")
# Several rows of one write, marked in kine_extra. Such writes are few, so only this statement marks rows.
_MARKED = (
    "marked AS (INSERT INTO kine_extra (id, lease, version)"
    " SELECT i.id, g.lease, CASE WHEN m.name IS NULL THEN 0 ELSE -1 END"
    " FROM inserted AS i JOIN given AS g ON g.name = i.name"
    " LEFT JOIN unnest(%(more)b::text[]) AS m (name) ON m.name = i.name"
    " WHERE g.lease != 0 OR m.name IS NOT NULL)"
)
INSERT_ALL = (
    f"WITH {_GIVEN}, inserted AS ({_INSERT} ORDER BY g.place RETURNING id, name), {_MARKED}"
    " SELECT id, name FROM inserted ORDER BY id"
)
PLACE = (
    f"INSERT INTO kine (id, {_COLUMNS})"
    " SELECT *, NULL::bytea FROM unnest(%(ids)b::int8[], %(names)b::text[], %(creations)b::int8[],"
    " %(deletions)b::int8[], %(create_revisions)b::int8[], %(prev_revisions)b::int8[], %(ttls)b::int8[],"
    " %(values)b::bytea[])"
)
CLAIM = (
    "UPDATE kine_writer SET batch = %b, head = (SELECT coalesce(max(id), 0) FROM kine)"
    " WHERE id = %b AND batch < %b RETURNING head"
)
CLAIMED = "SELECT batch FROM kine_writer WHERE id = %b"
LISTEN = f"LISTEN {CHANNEL}"

# Also whether the server has become a replica while connected, as behind a pooler.
NEWEST = "SELECT max(id), pg_is_in_recovery() FROM kine"
FILL = (
    "INSERT INTO kine"
    " (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    f" SELECT g.id, '{PREFIX}' || g.id || %b::text, 0, 1, g.last, 0, 0, NULL, NULL"
    " FROM unnest(%b::int8[], %b::int8[]) AS g (id, last) ON CONFLICT DO NOTHING RETURNING id"
)
# Advances the sequence if its next id would not be above every row and the parameter.
ADVANCE = (
    "SELECT setval('{quoted}', n.id), s.next FROM"
    " (SELECT greatest((SELECT max(id) FROM kine), %b) AS id) AS n,"
    " (SELECT last_value + is_called::int AS next FROM {sequence}) AS s WHERE s.next <= n.id"
)
# The sequence that gives ids, whether or not the column owns it.
SEQUENCE = (
    "SELECT coalesce(pg_get_serial_sequence('kine', 'id'), (SELECT d.refobjid::regclass::text"
    " FROM pg_attrdef AS a JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid"
    " AND d.refclassid = 'pg_class'::regclass JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind = 'S'"
    " WHERE a.adrelid = 'kine'::regclass AND a.adnum ="
    " (SELECT attnum FROM pg_attribute WHERE attrelid = 'kine'::regclass AND attname = 'id') LIMIT 1))"
)
REMOVE = (
    "DELETE FROM kine_extra WHERE id = ANY(?::int8[])",
    "DELETE FROM kine WHERE id = ANY(?::int8[])",
)
VALUES = "SELECT id, coalesce(value, ''::bytea) FROM kine WHERE id = ANY(%b::int8[])"
SIZE = "SELECT pg_total_relation_size('kine')"
IN_USE = (
    "SELECT coalesce(n_live_tup::float8 / nullif(n_live_tup + n_dead_tup, 0), 1)"
    " FROM pg_stat_user_tables WHERE relid = 'kine'::regclass"
)


@lru_cache(maxsize=256)
def numbered(statement: str) -> str:
    """A neutral statement, with `?` replaced by psycopg's `%b`."""
    return statement.replace("%", "%%").replace("?", "%b")
