"""Sockets to listen on, where a library does not make them."""

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
    """Listens there: one socket for each of a name's addresses, on one port. They do not block.

    Raises OSError as `bind_unix` does, and when an address is taken, not of this machine or not known.
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
        except OSError:  # the system has no such addresses, and the name has others
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
    """Removes the socket a dead server has left at `path`.

    Raises OSError (EADDRINUSE) when a server still listens there, or when the file is no socket.
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
            pass  # its backlog is full, so someone listens
    raise OSError(errno.EADDRINUSE, f"another server listens on {path}", path)


def bind_unix(path: str) -> socket.socket:
    """A socket bound at `path`, which only this user may connect to (mode 0600) from its first moment on.

    Raises OSError as `clear_stale_socket` does, and when the directory is missing or not writable.
    """
    clear_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(sock.fileno(), 0o600)  # Linux makes the file with the mode the unbound socket has
        sock.bind(path)
        os.chmod(path, 0o600)  # for where it does not
    except OSError as error:
        sock.close()
        if error.errno is None:  # a path that is too long, which has no number
            raise OSError(errno.ENAMETOOLONG, str(error), path) from None
        raise OSError(error.errno, error.strerror, path) from None
    return sock


def remove_socket(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
