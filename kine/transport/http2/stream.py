"""HTTP/2 stream state, the application interface of a connection, and recently reset streams."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from kine.transport.http2.flow_window import ReceiveWindow, SendWindow
from kine.transport.http2.frames import PROTOCOL_ERROR, StreamError

if TYPE_CHECKING:
    from kine.transport.http2.request_headers import RequestHead


class Http2Stream:
    __slots__ = (
        "application", "expected", "extra", "grown", "head", "head_sent", "id", "kept", "local_closed",
        "opened", "queue", "queued", "receive", "received", "remote_closed", "send", "trailers",
    )  # fmt: skip

    def __init__(self, stream_id: int, head: RequestHead, send: int, receive: int, opened: float) -> None:
        self.id = stream_id
        self.head = head
        self.opened = opened  # time of the clock that `Connection.receive` is given
        self.grown = 0  # bytes by which decompression has enlarged its message; they count as queued
        self.kept = 0  # bytes counted as kept for its head and its handler
        self.extra = 0  # bytes by which the receive window is wider than other streams'
        self.send = SendWindow(send)
        self.receive = ReceiveWindow(receive)
        self.received = 0
        self.expected = head.content_length
        self.remote_closed = False
        self.local_closed = False
        self.head_sent = False
        self.queue: deque[memoryview] = deque()  # DATA that waits for a window or the socket
        self.queued = 0
        self.trailers: bytes | None = None  # sent after the queue
        self.application: Any = None  # for the application's use

    def check_length(self) -> None:
        """Raises StreamError if the length of the complete body differs from its content-length."""
        if self.expected is not None and self.received != self.expected:
            raise StreamError(self.id, PROTOCOL_ERROR, "content-length does not fit")


class Application(Protocol):
    def request(self, stream: Http2Stream) -> None:
        """A stream has been opened."""

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None:
        """Bytes of the body, the last ones if `ended`. The application releases them once consumed."""

    def reset(self, stream: Http2Stream) -> None:
        """The stream has ended early, by the peer's reset, a stream error or the connection's end."""

    def drained(self, stream: Http2Stream) -> None:
        """Some of the stream's queued data has been sent."""


class ClosedStreams:
    """The streams reset most recently, whose late frames are not errors."""

    __slots__ = ("_forgotten", "_ids")

    _MOST = 1_000

    def __init__(self) -> None:
        self._ids: dict[int, None] = {}
        self._forgotten = 0  # streams up to this id may have been reset: their entries were dropped

    def add(self, stream_id: int) -> None:
        self._ids[stream_id] = None
        if len(self._ids) > self._MOST:
            oldest = next(iter(self._ids))
            self._forgotten = max(self._forgotten, oldest)
            del self._ids[oldest]

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._ids

    def may_hold(self, stream_id: int) -> bool:
        return stream_id in self._ids or stream_id <= self._forgotten
