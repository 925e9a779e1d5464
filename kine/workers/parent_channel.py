"""What a parent and its workers say to each other: one byte at a time, some with a connection beside it."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

VARIABLE = "KINE_WORKER_CHANNEL"  # of a worker's environment: its number and its end, as 2:7

# To a worker, with a connection:
CLIENT = b"c"  # of the clients' address
METRICS = b"m"  # of the metrics address
ASKED = b"a"  # from a worker that wants to know what this one would tell of itself
TOLD = b"t"  # on which another worker tells that
# To a worker, by itself:
ALL_TOLD = b"."  # every other worker has been asked

# To the parent:
UP = b"u"  # takes connections of the metrics address
READY = b"r"  # and of the clients'
STOPPING = b"s"  # takes none any more
TAKEN = b"t"  # has the connection that was passed on first of those it did not have yet
ENDED = b"e"  # one of its clients' connections has ended
ASK = b"q"  # what do the other workers tell?


def variable(number: int, end: socket.socket) -> str:
    return f"{number}:{end.fileno()}"


def inherited(environ: MutableMapping[str, str]) -> tuple[int, socket.socket] | None:
    """The number of this worker and its end of the channel; None if this is no worker."""
    number, _, end = environ.pop(VARIABLE, "").partition(":")
    if not end:
        return None
    os.set_inheritable(int(end), False)
    channel = socket.socket(fileno=int(end))
    channel.setblocking(False)
    return int(number), channel


def pass_on(channel: socket.socket, kind: bytes, connection: socket.socket) -> bool:
    """False if the other side does not take it now."""
    try:
        socket.send_fds(channel, [kind], [connection.fileno()])
    except OSError:
        return False
    return True
