"""The protocol between the parent and its workers: one-byte messages, some with a file descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

VARIABLE = "KINE_WORKER_CHANNEL"  # a worker's environment variable: its number and descriptor, as 2:7

# To a worker, with a connection:
CLIENT = b"c"  # of the clients' address
METRICS = b"m"  # of the metrics address
ASKED = b"a"  # to another worker, which asks for this one's status
TOLD = b"t"  # from another worker, which sends its status
# To a worker, without a connection:
ALL_TOLD = b"."  # every other worker has been asked

# To the parent:
UP = b"u"  # takes connections of the metrics address
READY = b"r"  # and of the clients' address
STOPPING = b"s"  # takes no more connections
TAKEN = b"t"  # has received the oldest connection passed on and not taken yet
ENDED = b"e"  # one of its client connections has ended
ASK = b"q"  # asks for the status of the other workers


def variable(number: int, end: socket.socket) -> str:
    return f"{number}:{end.fileno()}"


def inherited(environ: MutableMapping[str, str]) -> tuple[int, socket.socket] | None:
    """The number of this worker and its end of the channel; None if this process is not a worker."""
    number, _, end = environ.pop(VARIABLE, "").partition(":")
    if not end:
        return None
    os.set_inheritable(int(end), False)
    channel = socket.socket(fileno=int(end))
    channel.setblocking(False)
    return int(number), channel


def pass_on(channel: socket.socket, kind: bytes, connection: socket.socket) -> bool:
    """Sends a connection's descriptor; False if the channel is full or closed."""
    try:
        socket.send_fds(channel, [kind], [connection.fileno()])
    except OSError:
        return False
    return True
