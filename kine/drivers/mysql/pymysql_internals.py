"""Private attributes of PyMySQL that kine uses, all in one place.

pyproject.toml caps PyMySQL's version, and `tests/drivers/test_library_internals.py` fails if they change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

Connection = Any  # pymysql's, whose stubs lack all of these


def add_attributes(connection: Connection, attributes: Iterable[tuple[str, str]]) -> None:
    """Adds connection attributes, before the connection is opened."""
    connection._connect_attrs.update(attributes)


def encrypt_if_offered(connection: Connection) -> None:
    """Makes TLS optional: used if the server supports it. Called before the connection is opened."""
    connection._ssl_required = False


def socket_of(connection: Connection) -> socket.socket:
    found: socket.socket = connection._sock
    return found


def read_packet(connection: Connection) -> Any:
    """The server's next packet, during authentication."""
    return connection._read_packet()


def abort(connection: Connection) -> None:
    """Closes the socket without COM_QUIT."""
    connection._force_close()
