"""What kine needs of PyMySQL that has no public name, all in one place.

pyproject.toml caps its version, and `tests/drivers/test_library_internals.py` fails when it has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

Connection = Any  # pymysql's, whose stubs lack all of these


def add_attributes(connection: Connection, attributes: Iterable[tuple[str, str]]) -> None:
    """Connection attributes, for one that is not connected yet."""
    connection._connect_attrs.update(attributes)


def encrypt_if_offered(connection: Connection) -> None:
    """TLS where the server has it, else none: of one that is not connected yet."""
    connection._ssl_required = False


def socket_of(connection: Connection) -> socket.socket:
    found: socket.socket = connection._sock
    return found


def read_packet(connection: Connection) -> Any:
    """The server's next packet, in the midst of authentication."""
    return connection._read_packet()


def abort(connection: Connection) -> None:
    """Closes the socket without a goodbye."""
    connection._force_close()
