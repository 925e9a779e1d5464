"""One HTTP/2 connection's server side, without a loop or a socket.

Bytes go in by `receive`, which calls the application for what they mean; what is to be sent collects
until `take`. The application answers by `send_head`, `send_data` and `send_trailers`, or all three by
`respond`. Every rule that a peer breaks ends in the GOAWAY or RST_STREAM that RFC 9113 names for it, and
nothing a peer does makes this keep more than its windows, limits and one answer a stream.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from kine.transport.base import Limits
from kine.transport.http2 import frames
from kine.transport.http2.flood import Bucket, PingPolicy
from kine.transport.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MIN_FRAME_SIZE,
    PREFACE,
    ProtocolError,
    StreamError,
    frame,
)
from kine.transport.http2.headers import BlockError, Decoder, Field, ListTooLargeError
from kine.transport.http2.request import Head, MalformedError, check_trailers
from kine.transport.http2.window import ReceiveWindow, SendWindow

MAX_HEADER_LIST = 64 * 1024  # bytes, as RFC 9113 counts them
MAX_HEADER_BLOCK = 64 * 1024  # bytes over all its CONTINUATION frames
_MAX_CONTINUATIONS = 32
_CONNECTION_WINDOW = 16 * 1024 * 1024
_BURST = 256 * 1024  # bytes of DATA made at once: the socket decides when there is more
_REMEMBERED = 1_000  # streams that were reset, whose late frames are no fault
_HEADS = 256


class Stream:
    __slots__ = (
        "application", "expected", "head", "head_sent", "id", "local_closed", "queue", "queued",
        "receive", "received", "remote_closed", "send", "trailers",
    )  # fmt: skip

    def __init__(self, stream_id: int, head: Head, send: int, receive: int) -> None:
        self.id = stream_id
        self.head = head
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


class Application(Protocol):
    def request(self, stream: Stream) -> None:
        """A stream has been opened."""

    def data(self, stream: Stream, data: bytes, ended: bool) -> None:
        """Bytes of the body, the last ones if `ended`. The application releases them when it is done."""

    def reset(self, stream: Stream) -> None:
        """The stream is no more: the peer, or a rule, has ended it."""

    def drained(self, stream: Stream) -> None:
        """Some of the stream's queue has gone."""


class Connection:
    def __init__(self, application: Application, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self._decoder = Decoder(MAX_HEADER_LIST)
        self._heads: dict[tuple[Field, ...], Head] = {}
        self._buffer = b""
        self._out: list[bytes | memoryview] = []
        self._burst = 0
        self._now = 0.0
        self._greeted = False  # the preface has come
        self._first_settings = False
        self.streams: dict[int, Stream] = {}
        self.queued = 0  # bytes, over all streams
        # Those with a queue and a window of their own, first come first served.
        self._waiting: dict[Stream, None] = {}
        self._last_id = 0
        self._reset_by_us: dict[int, None] = {}
        self._reset_by_peer: dict[int, None] = {}
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, a header block so far
        self._continuations = 0
        self._send = SendWindow(DEFAULT_WINDOW)
        self._receive = ReceiveWindow(_CONNECTION_WINDOW)
        self._peer_window = DEFAULT_WINDOW
        self._peer_frame = MIN_FRAME_SIZE
        self._stream_window = max(1024 * 1024, limits.max_request_bytes + 64 * 1024)
        self._pings = PingPolicy(limits.keepalive_min_interval)
        self._resets = Bucket(2_000, 200)
        self._settings = Bucket(100, 10)
        self._idle_frames = Bucket(10_000, 1_000)
        self.paused = False  # the socket takes no more for now
        self.going_away = False
        self.closed = False  # nothing more is to be received or sent but what `take` gives
        self._handlers = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )
        self._greet()

    def _greet(self) -> None:
        settings = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big")
            for number, value in (
                (frames.MAX_CONCURRENT_STREAMS, self._limits.max_concurrent_streams),
                (frames.INITIAL_WINDOW_SIZE, self._stream_window),
                (frames.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST),
            )
        )
        self._out.append(frame(frames.SETTINGS, 0, 0, settings))
        self._window_update(0, _CONNECTION_WINDOW - DEFAULT_WINDOW)

    # ---- bytes in, bytes out

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the peer, at a time in seconds of any steady clock."""
        if self.closed:
            return
        self._now = now
        if self._buffer:
            data = self._buffer + data
        try:
            self._buffer = self._frames(data)
        except ProtocolError as error:
            self._end(error.code, error.reason)

    def _frames(self, data: bytes) -> bytes:
        position = 0
        if not self._greeted:
            if not data.startswith(PREFACE[: len(data)]):
                raise ProtocolError(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if len(data) < len(PREFACE):
                return data
            self._greeted = True
            position = len(PREFACE)
        size = len(data)
        unpack = HEAD.unpack_from
        handlers = self._handlers
        while size - position >= 9 and not self.closed:
            high, low, kind, flags, stream_id = unpack(data, position)
            length = high << 8 | low
            if length > MIN_FRAME_SIZE:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "a frame larger than allowed")
            start = position + 9
            end = start + length
            if end > size:
                break
            position = end
            if not self._first_settings:
                if kind != frames.SETTINGS or flags & frames.ACK:
                    raise ProtocolError(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self._first_settings = True
            if self._block is not None and kind != frames.CONTINUATION:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a frame within a header block")
            try:
                if kind < 10:
                    handlers[kind](flags, stream_id & 0x7FFFFFFF, data[start:end])
                else:
                    self._spend(self._idle_frames)
            except StreamError as error:
                self._on_stream_error(error)
        return data[position:]

    def take(self) -> bytes:
        """What is to be written now. Call it until it gives nothing, or the socket is full."""
        self._burst = 0
        if self._waiting and not self.paused:
            self._pump()
        if not self._out:
            return b""
        out = self._out
        self._out = []
        return bytes(out[0]) if len(out) == 1 else b"".join(out)

    def _on_stream_error(self, error: StreamError) -> None:
        stream = self.streams.get(error.stream_id)
        self._rst(error.stream_id, error.code)
        if stream is not None:
            self._forget(stream)
            self._application.reset(stream)

    def _end(self, code: int, reason: str) -> None:
        self._goaway(self._last_id, code, reason)
        self.closed = True
        self._buffer = b""

    def _spend(self, bucket: Bucket) -> None:
        if not bucket.take(self._now):
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # ---- frames of a stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not self._receive.receive(size):
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._release_connection(size)
            if stream_id in self._reset_by_us:
                return
            self._check_not_idle(stream_id)
            if stream_id in self._reset_by_peer:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "DATA after RST_STREAM")
            raise ProtocolError(frames.STREAM_CLOSED, "DATA on a closed stream")
        try:
            if stream.remote_closed:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "DATA after END_STREAM")
            if not stream.receive.receive(size):
                raise StreamError(stream_id, frames.FLOW_CONTROL_ERROR, "more than the stream's window")
        except StreamError:
            self._release_connection(size)
            raise
        padding = size - len(payload)
        if padding:
            self.release(stream, padding)
        ended = bool(flags & END_STREAM)
        if not payload and not ended:
            self._spend(self._idle_frames)
        stream.received += len(payload)
        if ended:
            self._check_length(stream)
            stream.remote_closed = True
        self._application.data(stream, payload, ended)

    @staticmethod
    def _check_length(stream: Stream) -> None:
        if stream.expected is not None and stream.received != stream.expected:
            raise StreamError(stream.id, frames.PROTOCOL_ERROR, "content-length does not fit")

    def release(self, stream: Stream, count: int) -> None:
        """The application has done with bytes it was given: the peer may send as many again."""
        if stream.local_closed or not count:
            return  # what a stream still held when it ended was released then
        self._release_connection(count)
        increment = stream.receive.release(count)
        if increment and not stream.remote_closed:
            self._window_update(stream.id, increment)

    def _release_connection(self, count: int) -> None:
        increment = self._receive.release(count)
        if increment:
            self._window_update(0, increment)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "HEADERS on a stream that is no client's")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends_on = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            payload = payload[5:]
            if depends_on == stream_id:
                # The block must be decoded all the same, or the tables fall out of step.
                self._last_id = max(self._last_id, stream_id)
                self._reset_by_us[stream_id] = None
                if flags & END_HEADERS:
                    self._decode(stream_id, payload)
                    raise StreamError(stream_id, frames.PROTOCOL_ERROR, "a stream that depends on itself")
                self._rst(stream_id, frames.PROTOCOL_ERROR)
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, payload)
        else:
            self._block = (stream_id, flags, bytearray(payload))
            self._continuations = 0

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "CONTINUATION of no header block")
        _, first_flags, block = self._block
        self._continuations += 1
        if len(block) + len(payload) > MAX_HEADER_BLOCK or self._continuations > _MAX_CONTINUATIONS:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "a header block without end")
        block += payload
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, first_flags, bytes(block))

    def _decode(self, stream_id: int, block: bytes) -> tuple[Field, ...]:
        try:
            return self._decoder.decode(block)
        except BlockError as error:
            raise ProtocolError(frames.COMPRESSION_ERROR, str(error)) from None
        except ListTooLargeError:
            self._last_id = max(self._last_id, stream_id)
            raise StreamError(stream_id, frames.ENHANCE_YOUR_CALM, "too many headers") from None

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        fields = self._decode(stream_id, block)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, flags, fields)
            return
        if stream_id <= self._last_id:
            if stream_id in self._reset_by_us:
                return
            if stream_id in self._reset_by_peer:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "HEADERS after RST_STREAM")
            raise ProtocolError(frames.STREAM_CLOSED, "HEADERS on a closed stream")
        self._last_id = stream_id
        if self.going_away or len(self.streams) >= self._limits.max_concurrent_streams:
            raise StreamError(stream_id, frames.REFUSED_STREAM, "no stream to spare")
        head = self._heads.get(fields)
        if head is None:
            try:
                head = Head(fields)
            except MalformedError as error:
                raise StreamError(stream_id, frames.PROTOCOL_ERROR, str(error)) from None
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            self._heads[fields] = head
        stream = Stream(stream_id, head, self._peer_window, self._stream_window)
        self.streams[stream_id] = stream
        self._application.request(stream)
        if flags & END_STREAM:
            self._check_length(stream)
            stream.remote_closed = True
            self._application.data(stream, b"", True)

    def _on_trailers(self, stream: Stream, flags: int, fields: tuple[Field, ...]) -> None:
        if stream.remote_closed:
            raise StreamError(stream.id, frames.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not flags & END_STREAM:
            raise StreamError(stream.id, frames.PROTOCOL_ERROR, "trailers without END_STREAM")
        try:
            check_trailers(fields)
        except MalformedError as error:
            raise StreamError(stream.id, frames.PROTOCOL_ERROR, str(error)) from None
        self._check_length(stream)
        stream.remote_closed = True
        self._application.data(stream, b"", True)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamError(stream_id, frames.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        self._spend(self._idle_frames)
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR, "a stream that depends on itself")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        self._check_not_idle(stream_id)
        if not self._resets.take(self._now):  # CVE-2023-44487
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many streams reset")
        stream = self.streams.get(stream_id)
        if stream is not None:
            _remember(self._reset_by_peer, stream_id)
            self._forget(stream)
            self._application.reset(stream)

    def _check_not_idle(self, stream_id: int) -> None:
        if not stream_id or stream_id > self._last_id or not stream_id & 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a frame on an idle stream")

    # ---- frames of the connection

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        if len(payload) % 6:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "half a setting")
        self._spend(self._settings)
        for position in range(0, len(payload), 6):
            number = int.from_bytes(payload[position : position + 2], "big")
            self._set(number, int.from_bytes(payload[position + 2 : position + 6], "big"))
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0, b""))

    def _set(self, number: int, value: int) -> None:
        if number == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            change = value - self._peer_window
            self._peer_window = value
            for stream in self.streams.values():
                if not stream.send.grow(change):
                    raise ProtocolError(frames.FLOW_CONTROL_ERROR, "a stream's window above 2^31-1")
                self._wait(stream)
        elif number == frames.MAX_FRAME_SIZE:
            if not MIN_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a frame size out of bounds")
            # Larger frames save little and would let one stream hold the socket for long.
            self._peer_frame = min(value, 4 * MIN_FRAME_SIZE)
        elif number == frames.ENABLE_PUSH and value > 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(frames.PROTOCOL_ERROR, "clients do not push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING has eight bytes")
        if flags & frames.ACK:
            return
        if not self._pings.allows(self._now, len(self.streams)):
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too_many_pings")
        self._out.append(frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "GOAWAY has eight bytes at least")

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream_id:
            if not increment:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a window grown by nothing")
            if not self._send.grow(increment):
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, "the connection's window above 2^31-1")
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        if not increment:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR, "a window grown by nothing")
        if not stream.send.grow(increment):
            raise StreamError(stream_id, frames.FLOW_CONTROL_ERROR, "the stream's window above 2^31-1")
        self._wait(stream)

    # ---- answers

    def respond(self, stream: Stream, head: bytes, message: bytes, trailers: bytes) -> None:
        """A whole answer: a head, one gRPC message (its prefix added here), and trailers."""
        size = len(message) + 5
        sending = self._send
        if (
            size > self._peer_frame
            or size > sending.size
            or size > stream.send.size
            or self._burst + size > _BURST
            or self.paused
        ):
            self.send_head(stream, head)
            self.send_data(stream, b"\0" + len(message).to_bytes(4, "big"))
            self.send_data(stream, message)
            self.send_trailers(stream, trailers)
            return
        if stream.local_closed:
            return
        # bench: transport_echo. One join for the three frames, nothing looked at twice.
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
        self._pings.allowance += 1
        self._finished(stream)

    def send_head(self, stream: Stream, block: bytes) -> None:
        if stream.local_closed or stream.head_sent:
            return
        stream.head_sent = True
        self._pings.allowance += 1
        self._out.append(frame(HEADERS, END_HEADERS, stream.id, block))

    def send_data(self, stream: Stream, data: bytes) -> None:
        if stream.local_closed or stream.trailers is not None:
            return
        stream.queue.append(memoryview(data))
        stream.queued += len(data)
        self.queued += len(data)
        if not self.paused and not self._waiting:
            self._send_queue(stream)
        self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        if stream.queue and stream.send.size > 0:
            self._waiting[stream] = None

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """Ends the stream, after all its data. With no head sent, the block is the whole answer."""
        if stream.local_closed or stream.trailers is not None:
            return
        stream.trailers = block
        if not stream.queue:
            self._send_trailers(stream)

    def end_data(self, stream: Stream) -> None:
        """Ends the stream after its data, without trailers: for answers that are not gRPC's."""
        if stream.local_closed:
            return
        if stream.queue:
            stream.trailers = b""
        else:
            self._out.append(frame(DATA, END_STREAM, stream.id, b""))
            self._finished(stream)

    def reset(self, stream: Stream, code: int) -> None:
        if not stream.local_closed:
            self._rst(stream.id, code)
            self._forget(stream)

    def _pump(self) -> None:
        for stream in tuple(self._waiting):
            if self.paused or self._send.size <= 0 or self._burst >= _BURST:
                return
            del self._waiting[stream]
            before = stream.queued
            self._send_queue(stream)
            self._wait(stream)  # behind the others now
            if not stream.queue and stream.trailers is not None:
                self._send_trailers(stream)
            if stream.queued < before:
                self._application.drained(stream)

    def _send_queue(self, stream: Stream) -> None:
        queue = stream.queue
        while queue:
            data = queue[0]
            size = min(len(data), self._peer_frame, self._send.size, stream.send.size, _BURST - self._burst)
            if size <= 0:
                return
            self._send.size -= size
            stream.send.size -= size
            self._burst += size
            stream.queued -= size
            self.queued -= size
            self._out.append(HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id))
            if size == len(data):
                self._out.append(data)
                queue.popleft()
            else:
                self._out.append(data[:size])
                queue[0] = data[size:]
            self._pings.allowance += 1

    def _send_trailers(self, stream: Stream) -> None:
        if not stream.trailers:
            stream.trailers = None
            self.end_data(stream)
            return
        self._out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, stream.trailers))
        self._pings.allowance += 1
        self._finished(stream)

    def _finished(self, stream: Stream) -> None:
        stream.local_closed = True
        if not stream.remote_closed:
            # The answer is complete without the rest of the request (RFC 9113, section 8.1).
            self._rst(stream.id, frames.NO_ERROR)
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.local_closed = True
        self.streams.pop(stream.id, None)
        if stream.receive.held:
            self._release_connection(stream.receive.held)
        if stream.queue:
            self._waiting.pop(stream, None)
            self.queued -= stream.queued
            stream.queue.clear()
            stream.queued = 0

    # ---- the end

    def go_away(self) -> None:
        """No new streams; those that are open go on."""
        if not self.going_away and not self.closed:
            self.going_away = True
            self._goaway(self._last_id, frames.NO_ERROR, "the server stops")

    def ping(self) -> None:
        self._out.append(frame(frames.PING, 0, 0, b"kinekine"))

    def _goaway(self, last_id: int, code: int, reason: str) -> None:
        payload = last_id.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()
        self._out.append(frame(frames.GOAWAY, 0, 0, payload))

    def _rst(self, stream_id: int, code: int) -> None:
        _remember(self._reset_by_us, stream_id)
        self._out.append(frame(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big")))

    def _window_update(self, stream_id: int, increment: int) -> None:
        self._out.append(frame(frames.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big")))


def _remember(streams: dict[int, None], stream_id: int) -> None:
    streams[stream_id] = None
    if len(streams) > _REMEMBERED:
        del streams[next(iter(streams))]


def _unpadded(payload: bytes) -> bytes:
    if not payload:
        raise ProtocolError(frames.FRAME_SIZE_ERROR, "no room for the padding's length")
    padding = payload[0]
    if padding >= len(payload):
        raise ProtocolError(frames.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]
