"""Consistency rules of the table `kine`, each as a query for the rows that break it, with a repair."""

# ruff: noqa: S608 - constants only

from __future__ import annotations

from dataclasses import dataclass

from kine.drivers.base import UNFINISHED
from kine.drivers.reserved_row_names import COMPACT_REV_KEY
from kine.drivers.sql.id_gaps import filler_sql


@dataclass(frozen=True, slots=True)
class TableRule:
    id: str
    broken: str  # the meaning of a row that breaks the rule
    question: str  # a query for rows of (id, name)
    repair: str  # SQL with {ids}, or advice
    needs: str = "kine"  # the table that the query reads
    on_mysql: str = ""  # the repair in MySQL's syntax, if it differs
    only_on: str = ""  # the only dialect on which it can be broken


_COMPACT_REV = COMPACT_REV_KEY.decode()
_R = f"(SELECT coalesce(max(prev_revision), 0) FROM kine WHERE name = '{_COMPACT_REV}')"
_KEYS = f"k.name != '{_COMPACT_REV}'"
# Go kine accepts an update of a deleted key, which creates it, and a deletion of a deleted key. It gives
# neither a create revision.
_MADE = "coalesce(k.create_revision, 0) IN (0, k.id)"
_WITH_PREVIOUS = "SELECT k.id, k.name FROM kine AS k JOIN kine AS p ON p.id = k.prev_revision WHERE " + _KEYS
_BY_HAND = (
    "no statement can tell what was meant: go back to a copy of the database from before, or copy the keys"
    " that are right into an empty one and serve from that"
)

RULES = (
    TableRule(
        "duplicate-predecessor",
        "two rows of one name replace the same row: the unique index is missing or damaged",
        "SELECT max(k.id), k.name FROM kine AS k GROUP BY k.name, k.prev_revision HAVING count(*) > 1",
        _BY_HAND,
    ),
    TableRule(
        "missing-predecessor",
        "the row this one replaces is gone, though it is newer than the compact revision allows",
        "SELECT k.id, k.name FROM kine AS k LEFT JOIN kine AS p ON p.id = k.prev_revision"
        f" WHERE {_KEYS} AND p.id IS NULL AND k.prev_revision != 0 AND k.id > {_R}"
        # The predecessor may be compacted if it was a deletion: this row creates the key or has no old value.
        f" AND (k.prev_revision > {_R} OR NOT (k.created != 0 OR k.deleted = 0 AND {_MADE}"
        " OR k.deleted != 0 AND k.old_value IS NULL))",
        _BY_HAND,
    ),
    TableRule(
        "later-predecessor",
        "it replaces a row that is not older",
        f"SELECT k.id, k.name FROM kine AS k WHERE {_KEYS} AND k.prev_revision >= k.id",
        _BY_HAND,
    ),
    TableRule(
        "foreign-predecessor",
        "it replaces a row of another name",
        f"{_WITH_PREVIOUS} AND p.name != k.name"
        # Its predecessor is compacted, and a Go kine that reads behind has filled that id as a gap.
        f" AND NOT (p.id <= {_R} AND {filler_sql('p')})",
        _BY_HAND,
    ),
    TableRule(
        "created-over-live",
        "a creation replaces a row that is not a deletion",
        f"{_WITH_PREVIOUS} AND p.name = k.name AND k.created != 0 AND p.deleted = 0",
        _BY_HAND,
    ),
    TableRule(
        "changed-after-delete",
        "an update replaces a deletion, and carries the create revision of what was there before",
        f"{_WITH_PREVIOUS} AND p.name = k.name AND k.created = 0 AND k.deleted = 0 AND p.deleted != 0"
        f" AND NOT {_MADE}",
        _BY_HAND,
    ),
    TableRule(
        "create-revision",
        "an update does not carry the create revision of the row it replaces",
        f"{_WITH_PREVIOUS} AND p.name = k.name AND k.created = 0 AND k.deleted = 0 AND p.deleted = 0"
        " AND coalesce(k.create_revision, 0) != CASE WHEN p.created != 0"
        " OR coalesce(p.create_revision, 0) = 0 THEN p.id ELSE p.create_revision END",
        _BY_HAND,
    ),
    TableRule(
        "old-value",
        "the old value kept with a row is not the value of the row it replaces",
        f"{_WITH_PREVIOUS} AND p.name = k.name AND k.created = 0 AND p.deleted = 0 AND k.id > {_R}"
        " AND (k.old_value != p.value"
        # A deletion on a full disk has no old value.
        " OR (k.old_value IS NULL AND k.deleted = 0 AND length(p.value) > 0))",
        "UPDATE kine SET old_value = (SELECT p.value FROM kine AS p WHERE p.id = kine.prev_revision)"
        " WHERE id IN ({ids});",
        on_mysql="UPDATE kine AS k JOIN kine AS p ON p.id = k.prev_revision SET k.old_value = p.value"
        " WHERE k.id IN ({ids});",
    ),
    TableRule(
        "two-heads",
        "two rows of one name are both the latest",
        "SELECT max(k.id), k.name FROM kine AS k LEFT JOIN kine AS s"
        " ON s.prev_revision = k.id AND s.name = k.name"
        # A row that fills a gap has a name that a key may have, too.
        f" WHERE {_KEYS} AND s.id IS NULL AND NOT (k.deleted != 0 AND k.prev_revision = 0)"
        " GROUP BY k.name HAVING count(*) > 1",
        _BY_HAND,
    ),
    TableRule(
        "left-by-compaction",
        "replaced or deleted before the compact revision, yet still there: it only takes space",
        f"{_WITH_PREVIOUS.replace('k.id, k.name', 'p.id, p.name')} AND k.id <= {_R} UNION"
        f" SELECT k.id, k.name FROM kine AS k WHERE {_KEYS} AND k.deleted != 0 AND k.id < {_R}",
        "DELETE FROM kine WHERE id IN ({ids});",
    ),
    TableRule(
        "gap",
        "the revision after this one does not exist: a reader would wait for it",
        "SELECT k.id, k.name FROM kine AS k LEFT JOIN kine AS n ON n.id = k.id + 1"
        f" WHERE n.id IS NULL AND k.id >= {_R} AND k.id < (SELECT max(id) FROM kine)"
        # One filler row may stand for a range of skipped ids.
        " AND NOT (k.deleted != 0 AND k.prev_revision = 0 AND k.create_revision > k.id)",
        "nothing to do: kine fills it while it serves",
    ),
    TableRule(
        "compact-row",
        "more than one row holds the compact revision",
        f"SELECT k.id, k.name FROM kine AS k WHERE k.name = '{_COMPACT_REV}'"
        f" AND k.id != (SELECT min(id) FROM kine WHERE name = '{_COMPACT_REV}')",
        "nothing to do: kine keeps the highest when it starts next",
    ),
    TableRule(
        "compacted-future",
        "the compact revision is above the newest row",
        f"SELECT k.id, k.name FROM kine AS k WHERE k.name = '{_COMPACT_REV}'"
        " AND k.prev_revision > (SELECT max(id) FROM kine)",
        _BY_HAND,
    ),
    TableRule(
        "number-for-name",
        "the name is stored as a number: the key was 1e3 or 0123, say, and its spelling is lost",
        "SELECT k.id, CAST(k.name AS TEXT) FROM kine AS k WHERE typeof(k.name) IN ('integer', 'real')",
        "nothing to do: kine makes text of the number when it starts",
        only_on="sqlite",
    ),
    TableRule(
        "unfinished-restore",
        "a restore or migration into this database was interrupted: it holds only a part of the keys",
        f"SELECT ttl, '' FROM kine_lease WHERE id = {UNFINISHED}",
        "run the same kine snapshot restore or kine migrate again, or begin with an empty database",
        "kine_lease",
    ),
    TableRule(
        "extra-without-row",
        "lease and version are kept for a row that is gone",
        "SELECT x.id, '' FROM kine_extra AS x LEFT JOIN kine AS k ON k.id = x.id WHERE k.id IS NULL",
        "DELETE FROM kine_extra WHERE id IN ({ids});",
        "kine_extra",
    ),
)

# Repairs for a database whose next id is one that a row has, or had; kine runs them when it starts, too.
ADVANCE = {
    "sqlite": "UPDATE sqlite_sequence SET seq = {0} WHERE name = 'kine';",
    "postgresql": "SELECT setval(pg_get_serial_sequence('kine', 'id'), {0});",
    "mysql": "ALTER TABLE kine AUTO_INCREMENT = {0};",
}

INDEXES = {
    "kine_name_prev_revision_uindex": (
        "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);"
    ),
    "kine_name_index": "CREATE INDEX kine_name_index ON kine (name);",
    "kine_name_id_index": "CREATE INDEX kine_name_id_index ON kine (name, id);",
    "kine_id_deleted_index": "CREATE INDEX kine_id_deleted_index ON kine (id, deleted);",
    "kine_prev_revision_index": "CREATE INDEX kine_prev_revision_index ON kine (prev_revision);",
}
