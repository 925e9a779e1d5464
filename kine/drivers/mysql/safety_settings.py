"""Checks of the server's settings and tables that durable, unique writes depend on."""

from __future__ import annotations

import logging

import pymysql

from kine.drivers.base import DriverError
from kine.drivers.mysql.connection import Connection, run

log = logging.getLogger(__name__)

_ENGINES = (
    b"SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE()"
    b" AND table_name IN ('kine', 'kine_extra', 'kine_lease', 'kine_writer', 'kine_turn')"
)
_KEYS = (
    b"SELECT index_name, non_unique, column_name, sub_part FROM information_schema.statistics"
    b" WHERE table_schema = DATABASE() AND table_name = 'kine' ORDER BY index_name, seq_in_index"
)
_LASTING = (
    (
        "innodb_flush_log_at_trx_commit",
        "acknowledged writes may be lost when the server or its machine crashes",
    ),
    ("sync_binlog", "replicas may miss acknowledged writes after the server's machine has crashed"),
)


def check_tables(connection: Connection) -> None:
    """Checks engines and unique indexes. Raises DriverError, with the statements that repair them."""
    other = {
        bytes(table).decode(): bytes(engine or b"").decode() for table, engine in run(connection, _ENGINES)[0]
    }
    wrong = {table: engine for table, engine in sorted(other.items()) if engine.lower() != "innodb"}
    if wrong:
        statements = " ".join(f"ALTER TABLE {table} ENGINE=InnoDB;" for table in wrong)
        raise DriverError(
            f"the table {min(wrong)} uses the storage engine {wrong[min(wrong)]}, which has no transactions:"
            f" a write could take place in part. Stop every kine on this database and run {statements}"
        )
    keys: dict[str, list[tuple[str, bool]]] = {}
    for index, non_unique, column, part in run(connection, _KEYS)[0]:
        whole = part is None and not int(non_unique)
        keys.setdefault(bytes(index).decode(), []).append((bytes(column or b"").decode(), whole))
    unique = [[column for column, _ in parts] for parts in keys.values() if all(whole for _, whole in parts)]
    if ["id"] not in unique:
        raise DriverError(
            "the table kine has no primary key, as after a copy of the table; run"
            " ALTER TABLE kine MODIFY id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY;"
        )
    if ["name", "prev_revision"] not in unique:
        raise DriverError(
            "the table kine lacks its unique index, on which writers of several instances rest; run"
            " DROP INDEX kine_name_prev_revision_uindex ON kine;"
            " CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);"
        )


def warn_of_weak_durability(connection: Connection) -> None:
    """Logs a warning for each global setting that may lose writes, as no session can change these."""
    for setting, consequence in _LASTING:
        try:
            [[(value, logged)]] = run(connection, f"SELECT @@global.{setting}, @@global.log_bin".encode())
        except pymysql.MySQLError:
            continue  # the server lacks this variable
        if int(value) != 1 and (setting != "sync_binlog" or int(logged)):
            log.warning("the server's %s is %d: %s; set it to 1", setting, int(value), consequence)
