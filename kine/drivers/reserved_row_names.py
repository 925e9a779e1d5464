"""Names of the rows that kine creates for itself in every backend, the same as Go kine's."""

from __future__ import annotations

COMPACT_REV_KEY = b"compact_rev_key"  # the row that holds a table's compact revision
COMPACT_REV_ROW = b"compact_rev_key_apiserver"  # therefore the row of the clients' key `compact_rev_key`
HEALTH_KEY = b"/registry/health"
