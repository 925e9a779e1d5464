"""Raw HTTP/2 client: sends frames that no library would, at any pace, and reads every frame sent back."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple, Self

from hpack import Encoder

from kine.transport.http2.frames import HEAD, LARGEST_WINDOW, PREFACE

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
OK = b"grpc-status\x010"
PATIENCE = 60.0  # seconds; generous, as a loaded machine is no failure


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def prefixed(message: bytes) -> bytes:
    return b"\0" + number(len(message)) + message


def block(path: str, *more: tuple[str, str]) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return Encoder().encode([*fields, *more])


def head(stream: int, path: str, *more: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block(path, *more))


def body(stream: int, message: bytes, flags: int = END_STREAM) -> bytes:
    """A message in DATA frames of the size that every peer accepts."""
    whole = prefixed(message)
    pieces = [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]
    frames = [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
    return b"".join([*frames, frame(DATA, flags, stream, pieces[-1])])


def call(stream: int, path: str, message: bytes, flags: int = END_STREAM) -> bytes:
    return head(stream, path) + body(stream, message, flags)


class Wire:
    """A connection that has sent its preface and settings, and accepts whatever the server sends."""

    def __init__(
        self, address: str, *, window: int = LARGEST_WINDOW, socket_buffer: int = 0, greet: bool = True
    ) -> None:
        """`socket_buffer`, in bytes, limits what the kernel buffers, so that a slow client is really slow."""
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        if socket_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, socket_buffer)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, socket_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        if greet:
            setting = (4).to_bytes(2, "big") + number(window)
            self.send(PREFACE, frame(SETTINGS, payload=setting), frame(WINDOW_UPDATE, payload=number(2**30)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def lose(self) -> None:
        """Resets the connection without an end, as when a machine fails."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def frames(self) -> Iterator[Frame]:
        """Yields the received frames until the server ends the connection."""
        buffer = self._buffer
        while True:
            while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], "big"):
                try:
                    received = self.socket.recv(65_536)
                except ConnectionResetError:
                    return
                if not received:
                    return
                buffer += received
            high, low, kind, flags, stream = HEAD.unpack_from(buffer)
            end = 9 + (high << 8 | low)
            taken = Frame(kind, flags, stream, bytes(buffer[9:end]))
            del buffer[:end]
            yield taken

    def answers(self, count: int) -> dict[int, bytes]:
        """The trailers of the next `count` streams that end, by stream."""
        ended: dict[int, bytes] = {}
        for got in self.frames():
            if got.kind == HEADERS and got.flags & END_STREAM:
                ended[got.stream] = got.payload
                if len(ended) == count:
                    return ended
        raise AssertionError(f"the connection ended after {len(ended)} of {count} answers")

    def goodbye(self) -> tuple[int, bytes]:
        """Reads until the connection ends; returns the code and the text of the last GOAWAY."""
        last = [got.payload for got in self.frames() if got.kind == GOAWAY][-1]
        return int.from_bytes(last[4:8], "big"), last[8:]
