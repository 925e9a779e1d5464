"""Migration of files whose column `name` is declared INTEGER, as Go kine created them up to v0.16.2.

With that declaration SQLite stores a key that looks like a number as that number: 1e3 as 1000, 0123 as 123,
which is then a different key. The declaration is rewritten when the file is opened; the rows stay in place.
"""

from __future__ import annotations

import logging
import re
import sqlite3

log = logging.getLogger(__name__)

# The message of SQLite's integrity check for a number stored earlier, once the column is declared TEXT.
NUMBER = "NUMERIC value in kine.name"

_DECLARED = "SELECT type FROM pragma_table_info('kine') WHERE name = 'name'"
_MADE = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'kine'"
_COLUMN = re.compile(rb"""(\bname["'`\]]?\s+)[A-Za-z]+""")
_NUMBERS = "name < ''"  # numbers come before all text


def make_text(writer: sqlite3.Connection) -> None:
    """Declares the column TEXT, and converts the numbers in it to text."""
    [(declared,)] = writer.execute(_DECLARED)
    if declared.upper() != b"TEXT":
        _declare(writer)
        log.info("the column name, which was declared %s, is declared TEXT now", declared.decode())
    if writer.execute(f"SELECT 1 FROM kine WHERE {_NUMBERS} LIMIT 1").fetchone():  # noqa: S608 - constants
        changed = writer.execute(
            f"UPDATE kine SET name = CAST(name AS TEXT) WHERE {_NUMBERS}"  # noqa: S608 - constants
        ).rowcount
        log.warning(
            "%d rows had numbers for names: keys as 1e3 or 0123, which an old declaration took for numbers;"
            " they go by the number's digits now",
            changed,
        )


def _declare(writer: sqlite3.Connection) -> None:
    writer.execute("BEGIN IMMEDIATE")
    try:
        [(made,)] = writer.execute(_MADE)
        [(version,)] = writer.execute("PRAGMA schema_version")
        writer.execute("PRAGMA writable_schema = ON")
        writer.execute(
            "UPDATE sqlite_master SET sql = CAST(? AS TEXT) WHERE type = 'table' AND name = 'kine'",
            (_COLUMN.sub(rb"\1TEXT", made, count=1),),
        )
        # Makes every connection, of other processes too, read the schema again.
        writer.execute(f"PRAGMA schema_version = {version + 1}")
        writer.execute("PRAGMA writable_schema = OFF")
        writer.execute("COMMIT")
    except BaseException:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        writer.execute("PRAGMA writable_schema = OFF")
        raise
