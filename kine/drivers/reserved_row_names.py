"""Names of the rows that a kine makes for itself, Go's or this one, in whatever it keeps its log in."""

from __future__ import annotations

COMPACT_REV_KEY = b"compact_rev_key"  # a table has its compact revision in this row
COMPACT_REV_ROW = b"compact_rev_key_apiserver"  # so here is what clients know by the name before
HEALTH_KEY = b"/registry/health"
