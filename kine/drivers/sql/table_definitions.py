"""Table definitions, once for all SQL databases; dialects differ in column types only.

`kine` is Go kine's table, column by column, with all its indexes or, on SQLite, those that a query of either
server uses; so either server opens the other's database. `kine_extra` and `kine_lease` hold the state of an
etcd server that `kine` has no column for. Go kine never reads them, and rows without an entry there are
served as Go kine would.

A running server never imports this module, which would cost it 0.2 s and 20 MB: it has the statements of
`ddl.py`, which `make tables` writes from here.
"""

from __future__ import annotations

from pathlib import Path
from pprint import pformat

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from kine.drivers.reserved_row_names import COMPACT_REV_KEY

metadata = MetaData()

_BIG = (
    BigInteger()
    .with_variant(sqlite.INTEGER(), "sqlite")
    .with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb")
)
_FLAG = Integer().with_variant(sqlite.INTEGER(), "sqlite")
_SIGNED = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
_NAME = (
    Text()
    .with_variant(postgresql.TEXT(collation="C"), "postgresql")
    # Go kine leaves the collation to the server, whose default takes "A" for "a" in the unique index.
    .with_variant(mysql.VARCHAR(630, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
_ENGINE = "InnoDB"  # a server's default may be one without transactions
_BYTES = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")

kine = Table(
    "kine",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("name", _NAME),
    Column("created", _FLAG),
    Column("deleted", _FLAG),
    Column("create_revision", _BIG),
    Column("prev_revision", _BIG),
    Column("lease", _FLAG),
    Column("value", _BYTES),
    Column("old_value", _BYTES),
    sqlite_autoincrement=True,
    mysql_engine=_ENGINE,
)
Index("kine_name_id_index", kine.c.name, kine.c.id)
Index("kine_id_deleted_index", kine.c.id, kine.c.deleted)
Index("kine_name_prev_revision_uindex", kine.c.name, kine.c.prev_revision, unique=True)


def _not_on_sqlite(*_: object, dialect: Dialect, **__: object) -> bool:
    return dialect.name != "sqlite"


# See `tables.UNUSED_ON_SQLITE`.
Index("kine_name_index", kine.c.name).ddl_if(callable_=_not_on_sqlite)
Index("kine_prev_revision_index", kine.c.prev_revision).ddl_if(callable_=_not_on_sqlite)
_ON_ONE = {
    "kine_list_query_index": "postgresql",
    "kine_id_compact_rev_key_with_prev_revision_index": "sqlite",
}
Index("kine_list_query_index", kine.c.name, kine.c.id.desc(), kine.c.deleted).ddl_if(dialect="postgresql")
Index(
    "kine_id_compact_rev_key_with_prev_revision_index",
    kine.c.id,
    kine.c.name,
    kine.c.prev_revision,
    sqlite_where=text(f"name != '{COMPACT_REV_KEY.decode()}' AND prev_revision != 0"),
).ddl_if(dialect="sqlite")

# Data that a row of `kine` has no column for: the lease's id (its own column holds the TTL), and the version
# once the rows below it are compacted away (0: count from the rows; -1: likewise, and the next row belongs to
# the same write).
extra = Table(
    "kine_extra",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=False),
    Column("lease", _SIGNED, nullable=False),
    Column("version", _SIGNED, nullable=False),
    mysql_engine=_ENGINE,
)

lease = Table(
    "kine_lease",
    metadata,
    Column("id", _SIGNED, primary_key=True, autoincrement=False),
    Column("ttl", _SIGNED, nullable=False),
    Column("renewals", _SIGNED, nullable=False),
    mysql_engine=_ENGINE,
)

# One row per running instance: the last group of rows it has committed, and the newest id before them. When a
# connection is lost in a commit, this row shows whether the commit took place, and prevents it from then on.
writer = Table(
    "kine_writer",
    metadata,
    Column("id", _SIGNED, primary_key=True, autoincrement=False),
    Column("batch", _SIGNED, nullable=False),
    Column("head", _SIGNED, nullable=False),
    Column("started", _SIGNED, nullable=False),  # seconds since 1970, to forget instances long gone
    mysql_engine=_ENGINE,
)

# One row to lock, where a database has no lock that ends with the transaction.
turn = Table(
    "kine_turn",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    mysql_engine=_ENGINE,
)

DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(),
    "mysql": mysql.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
}
FILE = Path(__file__).with_name("ddl.py")

Statements = dict[str, dict[str, str]]  # by dialect and name


def table_statements() -> Statements:
    return {
        name: {
            table.name: str(
                CreateTable(table, if_not_exists=name != "sqlite").compile(dialect=dialect)
            ).strip()
            for table in metadata.sorted_tables
        }
        for name, dialect in DIALECTS.items()
    }


def index_statements() -> Statements:
    """The statements for the indexes of the table `kine`, by dialect and name."""
    return {
        name: {
            str(index.name): str(
                CreateIndex(index, if_not_exists=name == "postgresql").compile(dialect=dialect)
            )
            for index in sorted(kine.indexes, key=lambda index: str(index.name))
            if _ON_ONE.get(str(index.name), name) == name
        }
        for name, dialect in DIALECTS.items()
    }


if __name__ == "__main__":
    FILE.write_text(
        '"""Written by `make tables` from `table_definitions.py`, where the tables are defined."""\n\n'
        "from __future__ import annotations\n\n"
        f"# By dialect and name.\nTABLES: dict[str, dict[str, str]] = {pformat(table_statements())}\n"
        f"INDEXES: dict[str, dict[str, str]] = {pformat(index_statements())}\n"
    )
