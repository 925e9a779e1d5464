"""What kine needs of nats-py that has no public name, all in one place.

pyproject.toml caps its version, and `tests/drivers/test_library_internals.py` fails when it has changed.
"""

from __future__ import annotations

from typing import Any


def tried(connection: Any) -> int:
    """How many of its servers a connection has tried, the one it is trying now included."""
    servers = [server for server in connection._server_pool if server.last_attempt is not None]
    current = connection._current_server
    return len(servers) + (current is not None and current not in servers)
