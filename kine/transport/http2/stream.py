"""A stream's state, and what a connection asks of the application behind it."""

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
        self.opened = opened  # when, by the clock `Connection.receive` is told
        self.grown = 0  # bytes by which its message has when it was unpacked; they count as queued
        self.kept = 0  # bytes that count as kept for it: its head's, its handler's
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
        self.trailers: bytes | None = None  # to follow the queue
        self.application: Any = None  # the application's own

    def check_length(self) -> None:
        """Raises StreamError if the body that has ended is not as long as its head said."""
        if self.expected is not None and self.received != self.expected:
            raise StreamError(self.id, PROTOCOL_ERROR, "content-length does not fit")


class Application(Protocol):
    def request(self, stream: Http2Stream) -> None:
        """A stream has been opened."""

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None:
        """Bytes of the body, the last ones if `ended`. The application releases them when it is done."""

    def reset(self, stream: Http2Stream) -> None:
        """The stream is no more: the peer, or a rule, has ended it."""

    def drained(self, stream: Http2Stream) -> None:
        """Some of the stream's queue has gone."""


class ClosedStreams:
    """The last streams that were reset: their late frames are no fault."""

    __slots__ = ("_forgotten", "_ids")

    _MOST = 1_000

    def __init__(self) -> None:
        self._ids: dict[int, None] = {}
        self._forgotten = 0  # streams up to this may have been reset; we no longer know

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
