"""Rows and INSERT statement of Go kine v0.17.5, as literals, so that no test needs the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.drivers.driver_databases import GoWriter

_COLUMNS = "name, created, deleted, create_revision, prev_revision, lease, value, old_value"
HEALTH = b'{"health":"true"}'

# That server's table after these calls on a new database, in the order of ids from 1 on: create a; update a;
# delete a; update a at the tombstone; create b; delete b; delete b at its tombstone; delete c, which never
# existed; create d; delete d; delete d at its tombstone; create d; create e with a TTL.
HISTORY: tuple[tuple[object, ...], ...] = (
    ("compact_rev_key", 1, 0, None, 0, 0, b"", None),
    ("/registry/health", 1, 0, None, 0, 0, HEALTH, None),
    ("/go/a", 1, 0, None, 0, 0, b"a1", None),
    ("/go/a", 0, 0, 3, 3, 0, b"a2", b"a1"),
    ("/go/a", 0, 1, 3, 4, 0, None, b"a2"),
    ("/go/a", 0, 0, None, 5, 0, b"a3", None),
    ("/go/b", 1, 0, None, 0, 0, b"b1", None),
    ("/go/b", 0, 1, 7, 7, 0, None, b"b1"),
    ("/go/b", 0, 1, None, 8, 0, None, None),
    ("/go/c", 0, 1, None, 0, 0, None, None),
    ("/go/d", 1, 0, None, 0, 0, b"d1", None),
    ("/go/d", 0, 1, 11, 11, 0, None, b"d1"),
    ("/go/d", 0, 1, None, 12, 0, None, None),
    ("/go/d", 1, 0, None, 13, 0, b"d2", None),
    ("/go/e", 1, 0, None, 0, 3600, b"e1", None),
)


def fill(go: GoWriter) -> None:
    """Fills a table without rows."""
    for row in HISTORY:
        go.run(f"INSERT INTO kine ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


class Go17:
    """Writes with the INSERT of v0.17.5; 0 where it inserts nothing, as the key has another newest row."""

    def __init__(self, go: GoWriter) -> None:
        self._go = go

    def create(self, name: str, value: bytes, prev: int = 0) -> int:
        return self._insert(name, 1, 0, prev, value)

    def update(self, name: str, value: bytes, prev: int) -> int:
        return self._insert(name, 0, 0, prev, value)

    def delete(self, name: str, prev: int) -> int:
        return self._insert(name, 0, 1, prev, None)

    def _insert(self, name: str, created: int, deleted: int, prev: int, value: bytes | None) -> int:
        cursor = self._go.connection.cursor()
        cursor.execute(
            self._go.marked(
                f"INSERT INTO kine ({_COLUMNS})"
                " WITH ikv AS (SELECT id, create_revision, value FROM kine WHERE id = ? AND deleted = 0)"
                " SELECT ?, ?, ?, (SELECT COALESCE(NULLIF(create_revision, 0), id) FROM ikv), ?, ?, ?,"
                " (SELECT value FROM ikv)"
                " WHERE COALESCE((SELECT MAX(id) FROM kine WHERE name = ?), 0) = ?"
            ),
            (prev, name, created, deleted, prev, 0, value, name, prev),
        )
        if not cursor.rowcount:
            return 0
        [(row_id,)] = self._go.run("SELECT MAX(id) FROM kine WHERE name = ?", (name,))
        return int(row_id)


_INDEXES = (
    "CREATE INDEX kine_name_index ON kine (name)",
    "CREATE INDEX kine_name_id_index ON kine (name,id)",
    "CREATE INDEX kine_id_deleted_index ON kine (id,deleted)",
    "CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
    "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)",
)
# The table as that server creates it.
SCHEMAS = {
    "sqlite": (
        "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER,"
        " deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB,"
        " old_value BLOB)",
        *_INDEXES,
        "CREATE INDEX kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision)"
        " WHERE name != 'compact_rev_key' AND prev_revision != 0",
    ),
    "postgres": (
        'CREATE TABLE kine (id BIGSERIAL PRIMARY KEY, name text COLLATE "C", created INTEGER,'
        " deleted INTEGER, create_revision BIGINT, prev_revision BIGINT, lease INTEGER, value bytea,"
        " old_value bytea)",
        *_INDEXES,
        "CREATE INDEX kine_list_query_index ON kine(name, id DESC, deleted)",
    ),
    "mysql": (
        "CREATE TABLE kine (id BIGINT UNSIGNED AUTO_INCREMENT, name VARCHAR(630) CHARACTER SET ascii,"
        " created INTEGER, deleted INTEGER, create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED,"
        " lease INTEGER, value MEDIUMBLOB, old_value MEDIUMBLOB, PRIMARY KEY (id))",
        *_INDEXES,
    ),
}


def make_table(go: GoWriter, kind: str) -> None:
    for statement in SCHEMAS[kind]:
        go.run(statement)
