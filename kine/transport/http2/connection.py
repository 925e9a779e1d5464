"""The server side of an HTTP/2 connection as a sans-I/O state machine: no event loop, no socket.

`receive` takes bytes and calls the application with requests and their bodies. The application responds
through `out`, the queue of bytes to send. Every violation of the protocol ends in the GOAWAY or RST_STREAM
that RFC 9113 names for it. Whatever a peer does, memory is bounded by the windows, the limits and one
response per stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.transport.byte_budget import ByteBudget, PassiveClient
from kine.transport.http2 import frames
from kine.transport.http2.flood_limits import Bucket, PingPolicy
from kine.transport.http2.frames import (
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    MIN_FRAME_SIZE,
    PREFACE,
    ProtocolError,
    StreamError,
    unpadded,
)
from kine.transport.http2.grpc_framing import PREFIX
from kine.transport.http2.header_blocks import MAX_HEADER_LIST, HeaderBlocks
from kine.transport.http2.receive_flow import SPARE, STREAM_WINDOW, ReceiveFlow, largest_half
from kine.transport.http2.request_headers import MalformedError, check_trailers, head_of
from kine.transport.http2.send_queue import SendQueue
from kine.transport.http2.stream import Application, ClosedStreams, Http2Stream

if TYPE_CHECKING:
    from kine.transport.base import Limits
    from kine.transport.byte_budget import ByteAccount
    from kine.transport.http2.hpack import Field

_LAST_STREAM = 2**31 - 1
_DRAIN = b"draining"  # the ping whose acknowledgement means that the peer has seen the first GOAWAY


class Connection:
    def __init__(self, application: Application, limits: Limits, account: ByteAccount | None = None) -> None:
        self._application = application
        self._limits = limits
        self._blocks = HeaderBlocks()
        self._buffer = b""
        self._account = account = account or ByteBudget(limits.max_queued_bytes).account(PassiveClient())
        self.out = SendQueue(self._finished, application.drained, account)
        self._now = 0.0
        self._preface = False  # the preface has been received
        self.greeted = False  # and the first SETTINGS
        self.streams: dict[int, Http2Stream] = {}
        self._last_id = 0
        self._reset_by_us = ClosedStreams()
        self._reset_by_peer = ClosedStreams()
        self._intake = ReceiveFlow(self.out, limits.max_request_bytes + PREFIX, account)
        self.release, self.expect = self._intake.release, self._intake.expect
        self._peer_window = DEFAULT_WINDOW
        self._pings = PingPolicy(limits.keepalive_min_interval)
        self._resets = Bucket(2_000, 200, 1)
        self._settings = Bucket(100, 10)
        self._idle_frames = Bucket(10_000, 1_000)
        self._updates = Bucket(20_000, 2_000, 10)
        self._unacknowledged = 1  # SETTINGS frames sent
        self._draining = False
        self.going_away = False
        self.closed = False  # nothing more is received, and nothing sent but the rest of `out`
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
        self._intake.open(limits.max_concurrent_streams, MAX_HEADER_LIST)

    def receive(self, data: bytes, now: float) -> None:
        """Handles bytes from the peer. `now` is in seconds of any monotonic clock."""
        if self.closed:
            return
        self._now = now
        if self._buffer:
            data = self._buffer + data
        try:
            self._buffer = self._frames(data)
        except ProtocolError as error:
            self.end(error.code, error.reason)

    def _frames(self, data: bytes) -> bytes:
        position = 0
        if not self._preface:
            if not data.startswith(PREFACE[: len(data)]):
                raise ProtocolError(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if len(data) < len(PREFACE):
                return data
            self._preface = True
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
            if not self.greeted:
                if kind != frames.SETTINGS or flags & frames.ACK:
                    raise ProtocolError(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self.greeted = True
            if self._blocks.open and kind != frames.CONTINUATION:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a frame within a header block")
            try:
                if kind < 10:
                    handlers[kind](flags, stream_id & 0x7FFFFFFF, data[start:end])
                else:
                    self._spend(self._idle_frames)
            except StreamError as error:
                self._on_stream_error(error)
        return data[position:]

    def _on_stream_error(self, error: StreamError) -> None:
        # A reset that the peer provokes costs as much as one that it sends (CVE-2019-9514, CVE-2025-8671).
        if not self.going_away and not self._resets.take(self._now, self.out.sent):
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many streams in error")
        if error.stream_id > self._last_id:  # idle: RST_STREAM must not be sent for it
            raise ProtocolError(error.code, error.reason)
        stream = self.streams.get(error.stream_id)
        self._reset(error.stream_id, error.code)
        if stream is not None:
            self._forget(stream)
            self._application.reset(stream)

    def _spend(self, bucket: Bucket) -> None:
        if not bucket.take(self._now, self.out.sent):
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # ---- frames of a stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not self._intake.receive(size):
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
        if flags & frames.PADDED:
            payload = unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._intake.give_back(size)
            if not payload:
                self._spend(self._idle_frames)
            self._check_not_idle(stream_id)
            if self._reset_by_us.may_hold(stream_id):
                return
            if stream_id in self._reset_by_peer:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "DATA after RST_STREAM")
            raise ProtocolError(frames.STREAM_CLOSED, "DATA on a closed stream")
        try:
            if stream.remote_closed:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "DATA after END_STREAM")
            if not stream.receive.receive(size):
                raise StreamError(stream_id, frames.FLOW_CONTROL_ERROR, "more than the stream's window")
        except StreamError:
            self._intake.give_back(size)
            raise
        padding = size - len(payload)
        if padding:
            self.release(stream, padding)
        ended = bool(flags & END_STREAM)
        if not payload and not ended:
            self._spend(self._idle_frames)
        stream.received += len(payload)
        if ended:
            stream.check_length()
            stream.remote_closed = True
        self._application.data(stream, payload, ended)
        if self._intake.window.size < SPARE:
            self._make_room()
        if self._account.crowded:
            self._account.make_room()

    def _make_room(self) -> None:
        while (victim := self._intake.victim(self.streams)) is not None:
            self._drop(victim)

    def shed(self) -> bool:
        """Implements `kine.transport.byte_budget.BudgetedClient`."""
        victim = largest_half(self.streams)
        if victim is None:
            return False
        self._drop(victim)
        return True

    def _drop(self, victim: Http2Stream) -> None:
        self._reset(victim.id, frames.ENHANCE_YOUR_CALM)
        self._forget(victim)
        self._application.reset(victim)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id & 1 and flags & ~END_STREAM == END_HEADERS:  # bench: get. All clients send this form
            self._on_block(stream_id, flags, payload)
        elif (block := self._blocks.begun(flags, stream_id, payload)) is not None:
            self._on_block(*block)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if (block := self._blocks.continued(flags, stream_id, payload)) is not None:
            self._on_block(*block)

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        try:
            fields = self._blocks.decoded(stream_id, flags, block)
        except StreamError:
            self._last_id = max(self._last_id, stream_id)
            raise
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, flags, fields)
            return
        if stream_id <= self._last_id:
            if self._reset_by_us.may_hold(stream_id):
                self._spend(self._idle_frames)
                return
            if stream_id in self._reset_by_peer:
                raise StreamError(stream_id, frames.STREAM_CLOSED, "HEADERS after RST_STREAM")
            raise ProtocolError(frames.STREAM_CLOSED, "HEADERS on a closed stream")
        self._last_id = stream_id
        if self.going_away or len(self.streams) >= self._limits.max_concurrent_streams:
            raise StreamError(stream_id, frames.REFUSED_STREAM, "no stream to spare")
        try:
            head = head_of(fields)
        except MalformedError as error:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR, str(error)) from None
        stream = Http2Stream(stream_id, head, self._peer_window, STREAM_WINDOW, self._now)
        self.streams[stream_id] = stream
        self._application.request(stream)
        if flags & END_STREAM:
            stream.check_length()
            stream.remote_closed = True
            self._application.data(stream, b"", True)

    def _on_trailers(self, stream: Http2Stream, flags: int, fields: tuple[Field, ...]) -> None:
        if stream.remote_closed:
            raise StreamError(stream.id, frames.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not flags & END_STREAM:
            raise StreamError(stream.id, frames.PROTOCOL_ERROR, "trailers without END_STREAM")
        try:
            check_trailers(fields)
        except MalformedError as error:
            raise StreamError(stream.id, frames.PROTOCOL_ERROR, str(error)) from None
        stream.check_length()
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
        if not self._resets.take(self._now, self.out.sent):  # CVE-2023-44487
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many streams reset")
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._reset_by_peer.add(stream_id)
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
            if not self._unacknowledged:
                raise ProtocolError(frames.PROTOCOL_ERROR, "an acknowledgement of nothing")
            self._unacknowledged -= 1
            return
        self._spend(self._settings)
        chosen = frames.settings_of(payload)
        # Only the last value of each counts: a frame with thousands must not walk all streams for each.
        if frames.MAX_FRAME_SIZE in chosen:
            # Larger frames save little and would let one stream occupy the socket for long.
            self.out.frame_size = min(chosen[frames.MAX_FRAME_SIZE], 4 * MIN_FRAME_SIZE)
        if frames.INITIAL_WINDOW_SIZE in chosen:
            self._set_window(chosen[frames.INITIAL_WINDOW_SIZE])
        self.out.acknowledge_settings()

    def _set_window(self, size: int) -> None:
        change, self._peer_window = size - self._peer_window, size
        for stream in self.streams.values():
            if not stream.send.grow(change):
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, "a stream's window above 2^31-1")
            self.out.wait(stream)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(frames.PROTOCOL_ERROR, "clients do not push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING has eight bytes")
        if flags & frames.ACK:
            if payload == _DRAIN and self._draining:
                self.last_call()
            else:
                self._spend(self._idle_frames)
            return
        if not self._pings.allows(self._now, len(self.streams), self.out.sent):
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too_many_pings")
        self.out.ping(payload, ack=True)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "GOAWAY has eight bytes at least")
        self._spend(self._idle_frames)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        self._spend(self._updates)
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream_id:
            if not increment:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a window grown by nothing")
            if not self.out.window.grow(increment):
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
        self.out.wait(stream)

    def _reset(self, stream_id: int, code: int) -> None:
        self._reset_by_us.add(stream_id)
        self.out.reset(stream_id, code)

    def _finished(self, stream: Http2Stream) -> None:
        stream.local_closed = True
        if not stream.remote_closed:
            # The response is complete before the rest of the request (RFC 9113, section 8.1).
            self._reset(stream.id, frames.NO_ERROR)
        self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        stream.local_closed = True
        self.streams.pop(stream.id, None)
        self._intake.forget(stream)
        self.out.forget(stream)

    # ---- the end

    def go_away(self) -> None:
        """Starts a graceful shutdown: open streams go on, and the peer should open no new ones."""
        if self.closed or self._draining or self.going_away:
            return
        if not self.greeted:
            self.last_call()
            return
        # Streams that the peer opens before it has seen this are served, until the ping's ack (section 6.8).
        self._draining = True
        self.out.goaway(_LAST_STREAM, frames.NO_ERROR, "the server stops")
        self.out.ping(_DRAIN)

    def last_call(self) -> None:
        """Refuses streams opened from now on, with the GOAWAY that says so."""
        if not self.closed and not self.going_away:
            self.going_away = True
            self.out.goaway(self._last_id, frames.NO_ERROR, "the server stops")

    def forget_all(self) -> list[Http2Stream]:
        """Forgets all streams and returns those that were open; nothing more is sent on them."""
        streams = list(self.streams.values())
        for stream in streams:
            self._forget(stream)
        return streams

    def end(self, code: int, reason: str) -> None:
        """Ends the connection with a GOAWAY of this code and reason."""
        if not self.closed:
            self.out.goaway(self._last_id, code, reason)
            self.closed = True
            self._buffer = b""

    def ping(self) -> None:
        self.out.ping(b"kinekine")
