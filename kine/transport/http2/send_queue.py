"""The send queue of an HTTP/2 connection: frames in order, DATA as far as the peer's windows allow.

Control frames are sent at once. DATA waits in its stream's queue for three things: the stream's window, the
connection's window, and the socket. Streams with something to send take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.transport.base import Pieces
from kine.transport.byte_budget import PIECE
from kine.transport.http2 import frames
from kine.transport.http2.flow_window import SendWindow
from kine.transport.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MIN_FRAME_SIZE,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.transport.base import Answer
    from kine.transport.byte_budget import ByteAccount
    from kine.transport.http2.stream import Http2Stream

_BURST = 256 * 1024  # bytes of DATA per `take`: after that, the socket decides whether more is built


class SendQueue:
    def __init__(
        self,
        finished: Callable[[Http2Stream], None],
        drained: Callable[[Http2Stream], None],
        account: ByteAccount,
    ) -> None:
        """Calls `finished` after a stream's last frame, and `drained` when a stream's queue got shorter."""
        self._finished = finished
        self._drained = drained
        self._account = account  # counts all queues
        self._out: list[bytes | memoryview] = []
        self._burst = 0
        self.window = SendWindow(DEFAULT_WINDOW)
        self.frame_size = MIN_FRAME_SIZE  # the largest payload to send
        self.sent = 0  # response frames, by which the flood limits judge what a peer sends
        self.paused = False  # the socket's buffer is full
        # Streams with queued data and an open window of their own, first come, first served.
        self._waiting: dict[Http2Stream, None] = {}

    def take(self) -> list[bytes | memoryview]:
        """Bytes to write now. Call it until it returns nothing, or the socket is full."""
        self._burst = 0
        if self._waiting and not self.paused and self.window.size > 0:
            self._pump()
        out = self._out
        if out:
            self._out = []
        return out

    # ---- responses

    def respond(self, stream: Http2Stream, head: bytes, message: Answer, trailers: bytes) -> None:
        """Sends a complete response: a head, one gRPC message (its prefix is added here), and trailers."""
        if type(message) is Pieces:
            self.head(stream, head)
            self._pieces(stream, message)
            self.trailers(stream, trailers)
            return
        assert isinstance(message, bytes)
        size = len(message) + 5
        sending = self.window
        if (
            size > self.frame_size
            or size > sending.size
            or size > stream.send.size
            or self._burst + size > _BURST
            or self.paused
        ):
            self.head(stream, head)
            self.data(stream, b"\0" + len(message).to_bytes(4, "big"))
            self.data(stream, message)
            self.trailers(stream, trailers)
            return
        if stream.local_closed:
            return
        # bench: transport_echo. One join for the three frames, each condition checked once.
        sending.size -= size
        self._burst += size
        stream_id = stream.id
        self._out.append(
            b"".join(
                (
                    HEAD.pack(0, len(head), HEADERS, END_HEADERS, stream_id),
                    head,
                    HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream_id),
                    b"\0",
                    (size - 5).to_bytes(4, "big"),
                    message,
                    HEAD.pack(0, len(trailers), HEADERS, END_HEADERS | END_STREAM, stream_id),
                    trailers,
                )
            )
        )
        self.sent += 1
        self._finished(stream)

    def head(self, stream: Http2Stream, block: bytes) -> None:
        if stream.local_closed or stream.head_sent:
            return
        stream.head_sent = True
        self.sent += 1
        self._out.append(frame(HEADERS, END_HEADERS, stream.id, block))

    def data(self, stream: Http2Stream, data: bytes) -> None:
        if stream.local_closed or stream.trailers is not None or not data:
            return
        size = len(data)
        # Most stream messages need no queue and no turn of the loop (bench scenario `fanout`).
        if (
            not stream.queue
            and not self._waiting
            and not self.paused
            and size <= self.frame_size
            and size <= self.window.size
            and size <= stream.send.size
            and self._burst + size <= _BURST
        ):
            self.window.size -= size
            stream.send.size -= size
            self._burst += size
            self._out += (HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id), data)
            self.sent += 1
            return
        stream.queue.append(memoryview(data))
        stream.queued += size + PIECE
        self._account.add(size + PIECE)
        if not self.paused and not self._waiting:
            self._send_queue(stream)
        self.wait(stream)

    def _pieces(self, stream: Http2Stream, message: Pieces) -> None:
        if stream.local_closed or stream.trailers is not None:
            return
        first = b"\0" + message.size.to_bytes(4, "big") + message.parts[0]
        before = len(stream.queue)
        stream.queue.append(memoryview(first))
        stream.queue += [memoryview(part) for part in message.parts[1:] if part]
        size = message.size + 5 + PIECE * (len(stream.queue) - before)
        stream.queued += size
        self._account.add(size)
        if not self.paused and not self._waiting:
            self._send_queue(stream)
        self.wait(stream)

    def wait(self, stream: Http2Stream) -> None:
        """Puts the stream in the rotation if it can send: its queue or window has grown."""
        if stream.queue and stream.send.size > 0:
            self._waiting[stream] = None

    def trailers(self, stream: Http2Stream, block: bytes) -> None:
        """Ends the stream, after all its data. If no head was sent, the block is the complete response.

        An empty block ends the stream without trailers, for responses that are not gRPC.
        """
        if stream.local_closed or stream.trailers is not None:
            return
        stream.trailers = block
        if not stream.queue:
            self._send_trailers(stream)

    def forget(self, stream: Http2Stream) -> None:
        """Drops what the stream still had to send."""
        if stream.queue:
            self._waiting.pop(stream, None)
            stream.queue.clear()
            queued, stream.queued = stream.queued, 0
            self._account.remove(queued)

    def _pump(self) -> None:
        for stream in tuple(self._waiting):
            if self.paused or self.window.size <= 0 or self._burst >= _BURST:
                return
            del self._waiting[stream]
            before = stream.queued
            self._send_queue(stream)
            self.wait(stream)  # behind the others now
            if not stream.queue and stream.trailers is not None:
                self._send_trailers(stream)
            if stream.queued < before:
                self._drained(stream)

    def _send_queue(self, stream: Http2Stream) -> None:
        """bench: list. Updates the counters once for all frames; full frames share one frame header."""
        queue, out, most = stream.queue, self._out, self.frame_size
        room = left = min(self.window.size, stream.send.size, _BURST - self._burst)
        frames, pieces = len(out), len(queue)
        while queue and left > 0:
            data = queue[0]
            end = len(data)
            stop = min(end, left)
            left -= stop
            begin = 0
            if stop >= most:
                whole = HEAD.pack(most >> 8, most & 0xFF, DATA, 0, stream.id)
                while stop - begin >= most:
                    out.append(whole)
                    out.append(data[begin : begin + most])
                    begin += most
            if begin < stop:
                size = stop - begin
                out.append(HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id))
                out.append(data[begin:stop])
            if stop == end:
                queue.popleft()
            else:
                queue[0] = data[stop:]
        size = room - left
        if size > 0:
            self.window.size -= size
            stream.send.size -= size
            self._burst += size
            gone = size + PIECE * (pieces - len(queue))
            stream.queued -= gone
            self._account.remove(gone)
            self.sent += (len(out) - frames) // 2

    def _send_trailers(self, stream: Http2Stream) -> None:
        block = stream.trailers
        if block:
            self._out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block))
        else:
            self._out.append(frame(DATA, END_STREAM, stream.id, b""))
        self.sent += 1
        self._finished(stream)

    # ---- control frames

    def settings(self, chosen: dict[int, int]) -> None:
        payload = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big") for number, value in chosen.items()
        )
        self._out.append(frame(frames.SETTINGS, 0, 0, payload))

    def acknowledge_settings(self) -> None:
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0, b""))

    def ping(self, payload: bytes, *, ack: bool = False) -> None:
        self._out.append(frame(frames.PING, frames.ACK if ack else 0, 0, payload))

    def goaway(self, last_id: int, code: int, reason: str) -> None:
        payload = last_id.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()
        self._out.append(frame(frames.GOAWAY, 0, 0, payload))

    def reset(self, stream_id: int, code: int) -> None:
        self._out.append(frame(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big")))

    def window_update(self, stream_id: int, increment: int) -> None:
        self._out.append(frame(frames.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big")))
