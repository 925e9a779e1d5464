"""The tables, once for all SQL databases; dialects differ in column types only.

`kine` is Go kine's table, column by column, with all its indexes or, on SQLite, those that a query of either
uses; so either server opens the other's database. The two side tables hold what an etcd server knows and that
table has no column for; Go kine never looks at them, and rows without an entry there are served as Go kine
would.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

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
)
Index("kine_name_id_index", kine.c.name, kine.c.id)
Index("kine_id_deleted_index", kine.c.id, kine.c.deleted)
Index("kine_name_prev_revision_uindex", kine.c.name, kine.c.prev_revision, unique=True)


def _not_on_sqlite(*_: object, dialect: Dialect, **__: object) -> bool:
    return dialect.name != "sqlite"


# By no plan of Go kine's queries or ours are these used on SQLite, and each costs an update a page of its own
# (bench scenario `update`): we do not make them. A Go kine that opens the database does; then they stay.
UNUSED_ON_SQLITE = frozenset({"kine_name_index", "kine_prev_revision_index"})
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
    sqlite_where=text("name != 'compact_rev_key' AND prev_revision != 0"),
).ddl_if(dialect="sqlite")

# What a row of `kine` cannot say of itself: the lease's id (its own column holds the TTL), and the count
# of changes once the rows below it are compacted away (0: count from the rows; -1: that, too, and the next
# row belongs to the same write).
extra = Table(
    "kine_extra",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=False),
    Column("lease", _SIGNED, nullable=False),
    Column("version", _SIGNED, nullable=False),
)

lease = Table(
    "kine_lease",
    metadata,
    Column("id", _SIGNED, primary_key=True, autoincrement=False),
    Column("ttl", _SIGNED, nullable=False),
    Column("renewals", _SIGNED, nullable=False),
)

COMPACT_REV_KEY = b"compact_rev_key"

# One row a running instance: the last group of rows it has committed, and the newest id before them. When a
# connection is lost in a commit, this tells exactly whether it took place, and forbids it from then on.
writer = Table(
    "kine_writer",
    metadata,
    Column("id", _SIGNED, primary_key=True, autoincrement=False),
    Column("batch", _SIGNED, nullable=False),
    Column("head", _SIGNED, nullable=False),
    Column("started", _SIGNED, nullable=False),  # seconds since 1970, to forget instances long gone
)

# One row to lock, where a database has no lock that ends with the transaction.
turn = Table("kine_turn", metadata, Column("id", Integer, primary_key=True, autoincrement=False))

EVERYWHERE = (kine, extra, lease)
SHARED = (*EVERYWHERE, writer)  # where several instances write to one database


def indexes(dialect: str) -> list[Index]:
    """Those of the table `kine`, on this dialect."""
    return [index for index in kine.indexes if _ON_ONE.get(str(index.name), dialect) == dialect]
