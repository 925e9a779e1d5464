"""A server that answers every Txn with the same few bytes, to measure the driver's own cost.

It implements just enough HTTP/2 for the driver's client and is no etcd: use it for `bench calibrate` only.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING

from bench.http2 import (
    ACK,
    CONNECTION_WINDOW,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

_HEAD = struct.Struct(">BHBBI")
_OPENING = b"\x88" + b"\x0f\x10" + b"\x10application/grpc"  # :status 200, content-type
_TRAILERS = b"\x00\x0bgrpc-status\x010"


def canned_txn() -> bytes:
    """etcd's answer to a successful create."""
    header = rpc_pb2.ResponseHeader(
        cluster_id=14841639068965178418, member_id=10276657743932975437, revision=7_654_321, raft_term=2
    )
    put = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=7_654_321))
    answer = rpc_pb2.TxnResponse(
        header=header, succeeded=True, responses=[rpc_pb2.ResponseOp(response_put=put)]
    )
    return answer.SerializeToString()


class _Client:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""
        self._greeted = False
        self._received = 0
        message = canned_txn()
        data = b"\0" + struct.pack(">I", len(message)) + message
        self._answer = struct.Struct(f">9s{len(_OPENING)}s9s{len(data)}s9s{len(_TRAILERS)}s")
        self._data = data
        grow = struct.pack(">I", CONNECTION_WINDOW - DEFAULT_WINDOW)
        sock.sendall(frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, grow))

    def read(self) -> bool:
        """Answers the requests received; False when the peer has disconnected."""
        try:
            got = self.sock.recv(256 << 10)
        except OSError:
            return False
        if not got:
            return False
        data = self._rest + got
        position = 0
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._rest = data
                return True
            position, self._greeted = len(PREFACE), True
        out: list[bytes] = []
        size = len(data)
        while size - position >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            stop = position + 9 + (high << 16 | low)
            if stop > size:
                break
            if kind == DATA:
                self._received += stop - position - 9
                if flags & END_STREAM:
                    out.append(self._reply(stream))
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, data[position + 9 : stop]))
            position = stop
        self._rest = data[position:]
        if self._received >= CONNECTION_WINDOW // 2:
            out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        if out:
            self.sock.sendall(b"".join(out))
        return True

    def _reply(self, stream: int) -> bytes:
        return self._answer.pack(
            _HEAD.pack(0, len(_OPENING), HEADERS, END_HEADERS, stream),
            _OPENING,
            _HEAD.pack(0, len(self._data), DATA, 0, stream),
            self._data,
            _HEAD.pack(0, len(_TRAILERS), HEADERS, END_HEADERS | END_STREAM, stream),
            _TRAILERS,
        )


def serve(pipe: Pipe) -> None:
    """Listens on a free port of this machine, sends it through the pipe, serves until the pipe is closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    poll = select.epoll()
    clients: dict[int, _Client] = {}
    poll.register(listener, select.EPOLLIN)
    poll.register(pipe, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == pipe.fileno():
                return
            if fd == listener.fileno():
                sock, _address = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[sock.fileno()] = _Client(sock)
                poll.register(sock, select.EPOLLIN)
            elif not clients[fd].read():
                poll.unregister(fd)
                clients.pop(fd).sock.close()
