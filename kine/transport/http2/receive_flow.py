"""Receive flow control: the connection's and the streams' windows, and which stream to reset if full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.transport.http2 import frames
from kine.transport.http2.flow_window import ReceiveWindow
from kine.transport.http2.frames import DEFAULT_WINDOW
from kine.transport.http2.large_message_window import LargeMessageWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kine.transport.byte_budget import ByteAccount
    from kine.transport.http2.send_queue import SendQueue
    from kine.transport.http2.stream import Http2Stream

STREAM_WINDOW = 64 * 1024
_CONNECTION_WINDOW = 48 * 1024 * 1024  # plus the room for large messages
_LARGE_MESSAGES = 16 * 1024 * 1024  # bytes of messages above a stream's window, let in at once
SPARE = 64 * 1024  # bytes of the connection's window that are never left to stalled streams


class ReceiveFlow:
    def __init__(self, out: SendQueue, largest_message: int, account: ByteAccount) -> None:
        self._out = out
        self._account = account
        room = max(_LARGE_MESSAGES, largest_message)
        self._room = LargeMessageWindow(room, self._widen)
        self.window = ReceiveWindow(_CONNECTION_WINDOW + room)
        self._answering = False  # the window is full of complete requests, whose responses will free it

    def open(self, streams: int, header_list: int) -> None:
        """Announces the limits to the peer: concurrent streams, bytes of headers, bytes of bodies."""
        self._out.settings(
            {
                frames.MAX_CONCURRENT_STREAMS: streams,
                frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                frames.MAX_HEADER_LIST_SIZE: header_list,
            }
        )
        self._out.window_update(0, self.window.limit - DEFAULT_WINDOW)

    def receive(self, count: int) -> bool:
        """False if the peer has sent more than it may."""
        if not self.window.receive(count):
            return False
        self._account.take_in(count)
        return True

    def give_back(self, count: int) -> None:
        self._answering = False
        self._account.release_received(count)
        increment = self.window.release(count)
        if increment:
            self._out.window_update(0, increment)

    def release(self, stream: Http2Stream, count: int) -> None:
        """Opens the windows for bytes that the application has consumed."""
        if stream.local_closed or not count:
            return  # `forget` released the bytes that the stream held at its end
        self.give_back(count)
        window = stream.receive
        if stream.extra and count > STREAM_WINDOW:  # the message that the window was widened for
            window.narrow(stream.extra)
            count -= stream.extra
            self._room.leave(stream)
        increment = window.release(count)
        if increment and not stream.remote_closed:
            self._out.window_update(stream.id, increment)

    def expect(self, stream: Http2Stream, size: int) -> None:
        """Prepares for a message of `size` bytes: a large one needs a wider window before it can complete."""
        if stream.local_closed or stream.remote_closed:
            return
        if size > STREAM_WINDOW // 2 and (increment := stream.receive.returned()):
            self._out.window_update(stream.id, increment)  # the message needs the bytes owed so far
        if size > STREAM_WINDOW:
            self._room.ask(stream, size - STREAM_WINDOW)

    def _widen(self, stream: Http2Stream, extra: int) -> None:
        stream.receive.widen(extra)
        self._out.window_update(stream.id, extra)

    def victim(self, streams: Mapping[int, Http2Stream]) -> Http2Stream | None:
        """The stream to reset if the window is full of incomplete requests: the largest of them, or None."""
        if self.window.size >= SPARE or self._answering:
            return None
        if increment := self.window.returned():
            self._out.window_update(0, increment)
            if self.window.size >= SPARE:
                return None
        halves = half_sent(streams)
        if sum(stream.receive.held for stream in halves) * 2 < self.window.limit:
            self._answering = True
            return None
        return max(halves, key=_first_to_go)

    def forget(self, stream: Http2Stream) -> None:
        """Frees everything that an ended stream held, and opens the connection's window for it."""
        if stream.receive.held:
            self.give_back(stream.receive.held)
            stream.receive.held = 0
        if stream.grown:
            self._account.drop_unpacked(stream.grown)
            stream.grown = 0
        if stream.kept:
            self._account.give_up(stream.kept)
            stream.kept = 0
        self._room.leave(stream)


def half_sent(streams: Mapping[int, Http2Stream]) -> list[Http2Stream]:
    return [stream for stream in streams.values() if not stream.remote_closed and stream.receive.held]


def largest_half(streams: Mapping[int, Http2Stream]) -> Http2Stream | None:
    return max(half_sent(streams), key=lambda stream: stream.receive.held, default=None)


def _first_to_go(stream: Http2Stream) -> tuple[bool, int]:
    return not stream.extra, stream.receive.held
