"""Reserved keys, and the translation between their names and values for clients and in rows.

Clients' `compact_rev_key` lives in rows named `compact_rev_key_apiserver`, because `compact_rev_key`
itself is the row in which kine keeps its compact revision. Its value is stored behind its version,
`<version>|<value>`: that is how Go kine, which counts no versions, keeps this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.drivers import reserved_row_names

if TYPE_CHECKING:
    from kine.drivers.base import Row

COMPACT_REV_KEY = reserved_row_names.COMPACT_REV_KEY
COMPACT_REV_ROW = reserved_row_names.COMPACT_REV_ROW
HEALTH_KEY = reserved_row_names.HEALTH_KEY
HEALTH_VALUE = b'{"health":"true"}'


def name_of(key: bytes) -> bytes:
    """The row name of a client's key."""
    return COMPACT_REV_ROW if key == COMPACT_REV_KEY else key


def key_of(row: Row) -> bytes | None:
    """The client's key that a row belongs to, or None for kine's own compact revision row."""
    name = row.name
    if name == COMPACT_REV_ROW:
        return COMPACT_REV_KEY
    if name == COMPACT_REV_KEY:
        return None
    # A gap filler counts as a deletion of the key of its name: that key's first row replaces it.
    return name


def stored(key: bytes, version: int, value: bytes) -> bytes:
    """The value as its row holds it."""
    return b"%d|%s" % (version, value) if key == COMPACT_REV_KEY else value


def shown(key: bytes, value: bytes) -> bytes:
    """The value as clients see it."""
    return split_version(value)[1] if key == COMPACT_REV_KEY else value


def split_version(stored_value: bytes) -> tuple[int, bytes]:
    """Splits `<version>|<value>` into version and value; old releases wrote the version alone."""
    version, bar, value = stored_value.partition(b"|")
    return (int(version) if version.isdigit() else 0), value if bar else b"0"
