"""Private attributes of nats-py that kine uses, all in one place.

pyproject.toml caps nats-py's version, and `tests/drivers/test_library_internals.py` fails if they change.
"""

from __future__ import annotations

from typing import Any


def tried(connection: Any) -> int:
    """The number of servers that a connection has tried, including the current one."""
    servers = [server for server in connection._server_pool if server.last_attempt is not None]
    current = connection._current_server
    return len(servers) + (current is not None and current not in servers)
