"""Written by `make tables` from `table_definitions.py`, where the tables are defined."""

from __future__ import annotations

# By dialect and name.
TABLES: dict[str, dict[str, str]] = {
    "mysql": {
        "kine": "CREATE TABLE IF NOT EXISTS kine (\n"
        "\tid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, \n"
        "\tname VARCHAR(630) CHARACTER SET ascii COLLATE "
        "ascii_bin, \n"
        "\tcreated INTEGER, \n"
        "\tdeleted INTEGER, \n"
        "\tcreate_revision BIGINT UNSIGNED, \n"
        "\tprev_revision BIGINT UNSIGNED, \n"
        "\tlease INTEGER, \n"
        "\tvalue MEDIUMBLOB, \n"
        "\told_value MEDIUMBLOB, \n"
        "\tPRIMARY KEY (id)\n"
        ")ENGINE=InnoDB",
        "kine_extra": "CREATE TABLE IF NOT EXISTS kine_extra (\n"
        "\tid BIGINT UNSIGNED NOT NULL, \n"
        "\tlease BIGINT NOT NULL, \n"
        "\tversion BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")ENGINE=InnoDB",
        "kine_lease": "CREATE TABLE IF NOT EXISTS kine_lease (\n"
        "\tid BIGINT NOT NULL, \n"
        "\tttl BIGINT NOT NULL, \n"
        "\trenewals BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")ENGINE=InnoDB",
        "kine_turn": "CREATE TABLE IF NOT EXISTS kine_turn (\n"
        "\tid INTEGER NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")ENGINE=InnoDB",
        "kine_writer": "CREATE TABLE IF NOT EXISTS kine_writer (\n"
        "\tid BIGINT NOT NULL, \n"
        "\tbatch BIGINT NOT NULL, \n"
        "\thead BIGINT NOT NULL, \n"
        "\tstarted BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")ENGINE=InnoDB",
    },
    "postgresql": {
        "kine": "CREATE TABLE IF NOT EXISTS kine (\n"
        "\tid BIGSERIAL NOT NULL, \n"
        '\tname TEXT COLLATE "C", \n'
        "\tcreated INTEGER, \n"
        "\tdeleted INTEGER, \n"
        "\tcreate_revision BIGINT, \n"
        "\tprev_revision BIGINT, \n"
        "\tlease INTEGER, \n"
        "\tvalue BYTEA, \n"
        "\told_value BYTEA, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
        "kine_extra": "CREATE TABLE IF NOT EXISTS kine_extra (\n"
        "\tid BIGINT NOT NULL, \n"
        "\tlease BIGINT NOT NULL, \n"
        "\tversion BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
        "kine_lease": "CREATE TABLE IF NOT EXISTS kine_lease (\n"
        "\tid BIGINT NOT NULL, \n"
        "\tttl BIGINT NOT NULL, \n"
        "\trenewals BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
        "kine_turn": "CREATE TABLE IF NOT EXISTS kine_turn (\n\tid INTEGER NOT NULL, \n\tPRIMARY KEY (id)\n)",
        "kine_writer": "CREATE TABLE IF NOT EXISTS kine_writer (\n"
        "\tid BIGINT NOT NULL, \n"
        "\tbatch BIGINT NOT NULL, \n"
        "\thead BIGINT NOT NULL, \n"
        "\tstarted BIGINT NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
    },
    "sqlite": {
        "kine": "CREATE TABLE kine (\n"
        "\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n"
        "\tname TEXT, \n"
        "\tcreated INTEGER, \n"
        "\tdeleted INTEGER, \n"
        "\tcreate_revision INTEGER, \n"
        "\tprev_revision INTEGER, \n"
        "\tlease INTEGER, \n"
        "\tvalue BLOB, \n"
        "\told_value BLOB\n"
        ")",
        "kine_extra": "CREATE TABLE kine_extra (\n"
        "\tid INTEGER NOT NULL, \n"
        "\tlease INTEGER NOT NULL, \n"
        "\tversion INTEGER NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
        "kine_lease": "CREATE TABLE kine_lease (\n"
        "\tid INTEGER NOT NULL, \n"
        "\tttl INTEGER NOT NULL, \n"
        "\trenewals INTEGER NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
        "kine_turn": "CREATE TABLE kine_turn (\n\tid INTEGER NOT NULL, \n\tPRIMARY KEY (id)\n)",
        "kine_writer": "CREATE TABLE kine_writer (\n"
        "\tid INTEGER NOT NULL, \n"
        "\tbatch INTEGER NOT NULL, \n"
        "\thead INTEGER NOT NULL, \n"
        "\tstarted INTEGER NOT NULL, \n"
        "\tPRIMARY KEY (id)\n"
        ")",
    },
}
INDEXES: dict[str, dict[str, str]] = {
    "mysql": {
        "kine_id_deleted_index": "CREATE INDEX kine_id_deleted_index ON kine (id, deleted)",
        "kine_name_id_index": "CREATE INDEX kine_name_id_index ON kine (name, id)",
        "kine_name_index": "CREATE INDEX kine_name_index ON kine (name)",
        "kine_name_prev_revision_uindex": "CREATE UNIQUE INDEX "
        "kine_name_prev_revision_uindex "
        "ON kine (name, prev_revision)",
        "kine_prev_revision_index": "CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
    },
    "postgresql": {
        "kine_id_deleted_index": "CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id, deleted)",
        "kine_list_query_index": "CREATE INDEX IF NOT EXISTS "
        "kine_list_query_index ON kine (name, "
        "id DESC, deleted)",
        "kine_name_id_index": "CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id)",
        "kine_name_index": "CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)",
        "kine_name_prev_revision_uindex": "CREATE UNIQUE INDEX IF NOT "
        "EXISTS "
        "kine_name_prev_revision_uindex "
        "ON kine (name, "
        "prev_revision)",
        "kine_prev_revision_index": "CREATE INDEX IF NOT EXISTS "
        "kine_prev_revision_index ON kine "
        "(prev_revision)",
    },
    "sqlite": {
        "kine_id_compact_rev_key_with_prev_revision_index": "CREATE INDEX "
        "kine_id_compact_rev_key_with_prev_revision_index "
        "ON kine (id, "
        "name, "
        "prev_revision) "
        "WHERE name != "
        "'compact_rev_key' "
        "AND "
        "prev_revision "
        "!= 0",
        "kine_id_deleted_index": "CREATE INDEX kine_id_deleted_index ON kine (id, deleted)",
        "kine_name_id_index": "CREATE INDEX kine_name_id_index ON kine (name, id)",
        "kine_name_index": "CREATE INDEX kine_name_index ON kine (name)",
        "kine_name_prev_revision_uindex": "CREATE UNIQUE INDEX "
        "kine_name_prev_revision_uindex "
        "ON kine (name, prev_revision)",
        "kine_prev_revision_index": "CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
    },
}
