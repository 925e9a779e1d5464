"""Listening TCP and unix sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kine.address import Address

BACKLOG = 1024


def listen(address: Address) -> list[socket.socket]:
    """Non-blocking listening sockets: one for each address that the host name resolves to, on one port.

    Raises OSError as `bind_unix` does, and when an address is in use, not local or cannot be resolved.
    """
    bound = [bind_unix(address.path)] if address.path else _bind_tcp(address)
    for sock in bound:
        sock.setblocking(False)
        sock.listen(BACKLOG)
    return bound


def _bind_tcp(address: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    port = address.port
    for family, _, _, _, (host, _, *scope) in dict.fromkeys(found):
        try:
            sock = socket.socket(family)
        except OSError:  # the system lacks this address family; the name may have addresses of another
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port, *scope))
        except OSError as error:
            for other in (sock, *bound):
                other.close()
            where = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
            raise OSError(error.errno, f"cannot listen on {where}: {str(error.strerror).lower()}") from None
        port = sock.getsockname()[1]
        bound.append(sock)
    if not bound:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return bound


def clear_stale_socket(path: str) -> None:
    """Removes the socket file that a dead server has left at `path`.

    Raises OSError (EADDRINUSE) if a server still listens on it, or if the file is not a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no socket"
        raise OSError(errno.EADDRINUSE, f"{path} is in the way: it is {kind}", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            remove_socket(path)
            return
        except BlockingIOError:
            pass  # its backlog is full, so a server listens on it
    raise OSError(errno.EADDRINUSE, f"another server listens on {path}", path)


def bind_unix(path: str) -> socket.socket:
    """A socket bound at `path`, with mode 0600 from its creation on: only this user may connect to it.

    Raises OSError as `clear_stale_socket` does, and if the directory is missing or not writable.
    """
    clear_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(sock.fileno(), 0o600)  # Linux makes the file with the mode the unbound socket has
        sock.bind(path)
        os.chmod(path, 0o600)  # for other systems
    except OSError as error:
        sock.close()
        if error.errno is None:  # Python raises this for a path that is too long
            raise OSError(errno.ENAMETOOLONG, str(error), path) from None
        raise OSError(error.errno, error.strerror, path) from None
    return sock


def remove_socket(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
