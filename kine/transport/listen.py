"""Unix sockets to listen on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat


def clear_stale_socket(path: str) -> None:
    """Removes the socket a dead server has left at `path`.

    Raises OSError (EADDRINUSE) when a server still listens there, or when the file is no socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EADDRINUSE, "a file that is no socket is in the way", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            remove_socket(path)
            return
        except BlockingIOError:
            pass  # its backlog is full, so someone listens
    raise OSError(errno.EADDRINUSE, "another server listens on this socket", path)


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
    except OSError:
        sock.close()
        raise
    return sock


def remove_socket(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
