"""SQL statements common to all dialects, with `?` for a parameter."""

# ruff: noqa: S608 - made of constants only

from __future__ import annotations

from collections.abc import Sequence

from kine.drivers.base import NewRow, Row
from kine.drivers.reserved_row_names import COMPACT_REV_KEY
from kine.drivers.sql.id_gaps import filler_sql

_COMPACT_REV = COMPACT_REV_KEY.decode()

ROW = (
    # Any of these may be NULL, as Go kine's create revision is: it reads that as 0.
    "k.id, k.name, k.created, k.deleted, k.create_revision, k.prev_revision, k.lease, {value},"
    " coalesce(x.lease, 0), CASE WHEN x.version > 0 THEN x.version ELSE 0 END, coalesce(x.version, 0) < 0"
)
_FROM = " FROM kine AS k LEFT JOIN kine_extra AS x ON x.id = k.id WHERE k.id > ? ORDER BY k.id"
_ROW_OR_0 = (  # for SQLite: MySQL would make decimal numbers of them
    "k.id, k.name, coalesce(k.created, 0), coalesce(k.deleted, 0), coalesce(k.create_revision, 0),"
    " coalesce(k.prev_revision, 0), coalesce(k.lease, 0)" + ROW[ROW.index(", {value}") :]
)
LOAD = "SELECT " + _ROW_OR_0.format(value="NULL") + _FROM
TAIL = "SELECT " + _ROW_OR_0.format(value="k.value") + _FROM + " LIMIT ?"

# The compact revision with each row, of the same snapshot: it distinguishes a row compacted away from one
# that is not committed yet.
_COMPACTED = f"SELECT max(prev_revision) FROM kine WHERE name = '{_COMPACT_REV}'"
_ROW_COMPACTED = f"{ROW}, ({_COMPACTED})"
LOAD_COMPACTED = "SELECT " + _ROW_COMPACTED.format(value="NULL") + _FROM + " LIMIT ?"
TAIL_COMPACTED = "SELECT " + _ROW_COMPACTED.format(value="k.value") + _FROM + " LIMIT ?"
NEWEST = "SELECT max(id) FROM kine"
# Rows within a leap, which the row before these ids marks: see `id_gaps`.
WITHIN = "SELECT id FROM kine WHERE id > ? AND id <= ? AND prev_revision + created > 0 ORDER BY id LIMIT ?"
EXISTS = "SELECT 1 FROM kine WHERE id = ? AND name = ?"
# A creation may be gone from the unique index, compacted, while the row that replaced it exists.
SINCE = "SELECT 1 FROM kine WHERE name = ? AND id > ? AND deleted = 0 LIMIT 1"
TAKEN = "SELECT name FROM kine WHERE name = ? AND prev_revision = ?"

COMPACT_REVISION = _COMPACTED
SET_COMPACT_REVISION = f"UPDATE kine SET prev_revision = ? WHERE name = '{_COMPACT_REV}'"

# Rows that a compaction from one revision to another removes: rows replaced since the first, up to the
# second, and tombstones before it. A tombstone at the compact revision itself stays until the next
# compaction, as in etcd: a watch may start there and must see the delete. Earlier tombstones were removed
# earlier, but only if by the same instance: Go kine's compaction skips a tombstone at the revision where this
# kine's has ended. And a Go kine that reads behind a compaction fills the removed ids as if they were gaps:
# those rows are found by name. Parameters: from, to, from or 0 for the tombstones, to, to.
_SUPERSEDED = (
    "SELECT prev_revision FROM kine"
    f" WHERE name != '{_COMPACT_REV}' AND prev_revision != 0 AND id > ? AND id <= ?"
    " UNION SELECT id FROM kine WHERE deleted != 0 AND id >= ? AND id < ?"
    f" UNION SELECT id FROM kine WHERE {filler_sql()} AND id < ?"
)
DOOMED = _SUPERSEDED
COMPACT_EXTRA = f"DELETE FROM kine_extra WHERE id IN ({_SUPERSEDED})"
COMPACT = f"DELETE FROM kine WHERE id IN ({_SUPERSEDED})"

# Old values are read by Go kine only, for a watch that starts before the row, which compaction rules out.
# Kept, the plaintext of a secret that was encrypted since would outlive its row. Parameters: from, to.
CLEAR_OLD_VALUES = "UPDATE kine SET old_value = NULL WHERE id > ? AND id <= ? AND old_value IS NOT NULL"

LEASES = "SELECT id, ttl, renewals FROM kine_lease"
LEASE = LEASES + " WHERE id = ?"
GRANT = "INSERT INTO kine_lease (id, ttl, renewals) VALUES (?, ?, ?)"
RENEW = (
    "UPDATE kine_lease SET renewals = CASE WHEN renewals < ? THEN ? ELSE renewals + 1 END"
    " WHERE id = ? AND renewals >= 0"
)
FORGET = "DELETE FROM kine_lease WHERE id = ?"
EXPIRE = "UPDATE kine_lease SET renewals = -1 WHERE id = ? AND renewals = ?"

INSERT_EXTRA = "INSERT INTO kine_extra (id, lease, version) VALUES (?, ?, ?)"
MORE = -1  # as a version: the write goes on with the next row

# An instance's own row: see `table_definitions.writer`.
REGISTER = "INSERT INTO kine_writer (id, batch, head, started) VALUES (?, 0, 0, ?)"
UNREGISTER = "DELETE FROM kine_writer WHERE id = ? OR started < ?"
CLAIM = (
    "UPDATE kine_writer SET batch = ?, head = (SELECT coalesce(max(id), 0) FROM kine)"
    " WHERE id = ? AND batch < ?"
)
CLAIMED = "SELECT batch, head FROM kine_writer WHERE id = ? FOR UPDATE"
FENCE = "UPDATE kine_writer SET batch = ? WHERE id = ?"
LANDED = "SELECT id, created, deleted, value FROM kine WHERE name = ? AND prev_revision = ? AND id > ?"

# A row committed after its id had been given up: it is appended again, as readers have passed its id.
LATE = (
    "SELECT name, created, deleted, create_revision, prev_revision, lease, value FROM kine"
    " WHERE id = ? FOR UPDATE"
)
FOLLOWED = f"SELECT 1 FROM kine WHERE prev_revision = ? AND name != '{_COMPACT_REV}' LIMIT 1"
DELETE = "DELETE FROM kine WHERE id = ?"
MOVE_EXTRA = "UPDATE kine_extra SET id = ? WHERE id = ?"

COMPACT_ROWS = f"SELECT id, prev_revision FROM kine WHERE name = '{_COMPACT_REV}' FOR UPDATE"

MIGRATE = (
    "INSERT INTO kine (deleted, create_revision, prev_revision, name, value, created, lease)"
    " SELECT 0, 0, 0, kv.name, kv.value, 1, CASE WHEN kv.ttl > 0 THEN 15 ELSE 0 END FROM key_value AS kv"
    " WHERE kv.id IN (SELECT max(id) FROM key_value GROUP BY name)"
)
ANY_ROW = "SELECT 1 FROM kine LIMIT 1"


def ungap(count: int) -> str:
    """The statement that removes gap rows, the only deletions that replace no row, from `count` ids."""
    marks = ", ".join("?" * count)
    return f"DELETE FROM kine WHERE deleted != 0 AND prev_revision = 0 AND id IN ({marks})"


def version_records(versions: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """The two statements that record these versions by row id, whether `kine_extra` has the rows or not."""
    ids = ", ".join(str(row_id) for row_id, _ in versions)
    cases = " ".join(f"WHEN {row_id} THEN {version}" for row_id, version in versions)
    return (
        f"UPDATE kine_extra SET version = CASE id {cases} END WHERE id IN ({ids})",
        "INSERT INTO kine_extra (id, lease, version)"
        f" SELECT k.id, 0, CASE k.id {cases} END FROM kine AS k WHERE k.id IN ({ids})"
        " AND NOT EXISTS (SELECT 1 FROM kine_extra AS e WHERE e.id = k.id)",
    )


def as_new(row: Row) -> NewRow:
    """Converts a row to insert it at its own id: in the table, a creation has no create revision."""
    create = 0 if row.created else row.create_revision
    return NewRow(
        row.name, row.created, row.deleted, create, row.prev_revision,
        row.ttl, row.value, row.lease, row.version,
    )  # fmt: skip
