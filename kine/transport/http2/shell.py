"""One connection on asyncio: its bytes, timers and requests, and the routes' handlers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from kine.transport.base import (
    INTERNAL_ERROR,
    Call,
    Code,
    Pieces,
    RpcError,
    Streaming,
    Unary,
    unknown_method,
)
from kine.transport.http2 import frames, grpc
from kine.transport.http2.calls import HALF, LATE, Collecting, GrpcStream, NotGrpc, Running
from kine.transport.http2.connection import Connection
from kine.transport.http2.gate import Gate
from kine.transport.http2.grpc import PREFIX, Inbox
from kine.transport.http2.opening import Spoken, hand_over, peer, spoken_in

if TYPE_CHECKING:
    from kine.transport.http2.server import Http2Server
    from kine.transport.http2.stream import Stream

log = logging.getLogger(__name__)

_MAX_QUEUED = 64 * 1024 * 1024  # over a connection's streams; beyond, new calls wait
_SLICE = 16 * 1024  # bytes taken in at once, before other connections have their turn
_FLUSH = 1024 * 1024  # bytes written at once, likewise
_LARGE = 64 * 1024  # bytes from which on a join costs more than a longer vector of pieces
_LINGER = 1.0  # seconds for a peer to read why its connection ends


class Shell(asyncio.Protocol):
    """One connection: what `connection.Application` asks for, on asyncio."""

    def __init__(self, server: Http2Server) -> None:
        self._server = server
        self._routes = server.routes
        self._limit = server.limits.max_request_bytes
        self.loop = asyncio.get_running_loop()
        self.connection = Connection(self, server.limits)
        self.out = self.connection.out
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peer = ""
        self._opening: bytes | None = b""  # what has come before it was clear which protocol it is
        self._secure = False
        self._negotiated = True  # where there is TLS, by its ALPN
        self._unread = b""
        self._flushing = False
        self._lingering: asyncio.TimerHandle | None = None
        self._held: dict[Stream, tuple[Unary, bytes, int]] = {}  # requests that wait for answers to leave
        self._timed: list[Stream] = []  # opened just now, with a deadline
        self._gate = Gate(self.out, _MAX_QUEUED)
        self._made = 0.0
        self._heard = 0.0
        self._pinged = False
        self.idle = asyncio.Event()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._peer = peer(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        self._secure = tls is not None
        self._negotiated = tls is None or tls.selected_alpn_protocol() == "h2"
        self._heard = self._made = self.loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.forget(self)
        self.connection.closed = True
        self._gone()
        if self._lingering is not None:
            self._lingering.cancel()
        self.idle.set()

    def _gone(self) -> None:
        """Nobody is to be answered any more."""
        self._held.clear()
        self._unread = b""
        for stream in self.connection.forget_all():
            self.reset(stream)

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            data = self._opening + data
            if not self._opened(data):
                return
        if self._unread:
            self._unread += data
            return
        if len(data) > _SLICE:
            self._unread = data[_SLICE:]
            data = data[:_SLICE]
            self._transport.pause_reading()
            self.loop.call_soon(self._read_on)
        self._take_in(data)

    def _opened(self, data: bytes) -> bool:
        """Finds out which protocol is spoken. False: not ours, or not known yet."""
        http1 = self._server.http1
        spoken = spoken_in(data)
        if spoken is Spoken.UNKNOWN:
            self._opening = data
            return False
        if spoken is Spoken.HTTP1 and http1 is not None:
            self._server.forget(self)
            hand_over(self._transport, http1, data)
            return False
        self._opening = None
        if not self._negotiated:
            self.connection.end(frames.INADEQUATE_SECURITY, "h2 was not agreed on by ALPN")
        return True

    def _read_on(self) -> None:
        if self.out.paused or not self._unread:
            return  # `resume_writing` comes back here
        data, self._unread = self._unread[:_SLICE], self._unread[_SLICE:]
        if self._unread:
            self.loop.call_soon(self._read_on)
        else:
            self._transport.resume_reading()
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        self._heard = self.loop.time()
        self._pinged = False
        try:
            self.connection.receive(data, self._heard)
        except Exception:
            log.exception("a connection failed: %s", self._peer)
            self.connection.end(frames.INTERNAL_ERROR, "internal error")
        if self._timed:
            self._watch_bodies()
        self._flush()

    def eof_received(self) -> bool:
        return False  # a half-open HTTP/2 connection is of no use: close it

    def pause_writing(self) -> None:
        self.out.paused = True
        self._transport.pause_reading()  # whoever does not read need not be heard

    def resume_writing(self) -> None:
        self.out.paused = False
        if self._unread:
            self.loop.call_soon(self._read_on)
        else:
            self._transport.resume_reading()
        self._flush()

    # ---- output

    def _flush(self) -> None:
        self._flushing = False
        connection, out = self.connection, self.out
        if self._lingering is not None or self._transport.is_closing():
            return
        written = 0
        while taken := out.take():
            written += self._write(taken)
            if out.paused:
                break
            if written >= _FLUSH:
                self.flush_soon()
                break
        if connection.closed:
            self._linger()
        if connection.going_away and not connection.streams:
            self.idle.set()

    def _write(self, taken: list[bytes | memoryview]) -> int:
        """Bytes written. Large pieces go as they are, unless TLS would make a record of each."""
        if len(taken) == 1:
            self._transport.write(taken[0])
            return len(taken[0])
        size = sum(map(len, taken))
        if size < _LARGE or self._secure:
            self._transport.write(b"".join(taken))
        else:
            self._transport.writelines(taken)
        return size

    def _linger(self) -> None:
        """Closes, but not before the peer has had time to read why: closing on unread bytes is a reset."""
        self._lingering = self.loop.call_later(_LINGER, self._transport.abort)
        self._gone()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            if not self.out.paused:
                self._transport.resume_reading()
        else:
            self._transport.close()

    def flush_soon(self) -> None:
        """One write for all answers that become ready in one turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def flush_alone(self) -> None:
        """At once, if there is no other call here whose answer might go along. Called by the loop only."""
        if self.connection.streams:
            self.flush_soon()
        elif not self._flushing:
            self._flush()

    # ---- the connection's life

    def go_away(self) -> None:
        self.connection.go_away()
        self._flush()

    def last_call(self) -> None:
        self.connection.last_call()
        self._flush()

    def close(self) -> None:
        for stream in tuple(self.connection.streams.values()):
            if isinstance(stream.application, Running):
                stream.application.cancel(RpcError(Code.UNAVAILABLE, "the server stops"))
        self._flush()
        self._transport.close()

    def check_alive(self) -> None:
        limits = self._server.limits
        now = self.loop.time()
        silent = now - self._heard
        if not self.connection.greeted:
            if now - self._made > limits.handshake_timeout:
                self._transport.abort()
        elif self._pinged and silent > limits.keepalive_interval + limits.keepalive_timeout:
            self._transport.abort()
        elif not self._pinged and silent > limits.keepalive_interval:
            self._pinged = True
            self.connection.ping()
            self._flush()

    # ---- requests

    def request(self, stream: Stream) -> None:
        head = stream.head
        headers = head.headers
        if head.method != "POST" or not grpc.is_grpc(headers.get("content-type", "")):
            stream.application = NotGrpc
            return
        route = self._routes.get(head.path)
        if route is None:
            self._fail(stream, unknown_method(head.path, self._routes))
        elif type(route) is Unary:
            stream.application = route
            if "grpc-timeout" in headers:
                self._timed.append(stream)
        elif isinstance(route, Streaming):
            self._stream(stream, route)

    def data(self, stream: Stream, data: bytes, ended: bool) -> None:
        application = stream.application
        if type(application) is Unary:
            # One frame with the whole message, as nearly all requests are, or the first of several.
            size = len(data)
            if ended and size >= PREFIX and int.from_bytes(data[1:PREFIX], "big") == size - PREFIX:
                if data[0] or size - PREFIX > self._limit:
                    self._unary_slowly(stream, Collecting(application, self._inbox(stream)), data, ended)
                elif self.out.queued > _MAX_QUEUED:
                    self._held[stream] = (application, data[PREFIX:], size)
                else:
                    self._unary(stream, application, data[PREFIX:], size)
            else:
                stream.application = collecting = Collecting(application, self._inbox(stream))
                self._unary_slowly(stream, collecting, data, ended)
        elif application is NotGrpc:
            self.connection.release(stream, len(data))
            if ended:
                self._refuse(stream)
        elif type(application) is Collecting:
            self._unary_slowly(stream, application, data, ended)
        elif type(application) is Running and application.stream is not None:
            try:
                application.stream.feed(data, ended)
            except RpcError as error:
                application.cancel(error)
        else:
            self.connection.release(stream, len(data))  # the answer is given, the rest of no interest

    def _watch_bodies(self) -> None:
        """A request whose body is not there yet is late, too, once its deadline is over."""
        opened, self._timed = self._timed, []
        for stream in opened:
            if stream.local_closed or stream in self._held:
                continue
            if type(stream.application) is Unary:
                stream.application = Collecting(stream.application, self._inbox(stream))
            collecting = stream.application
            if type(collecting) is Collecting:
                try:
                    deadline = self._call(stream).deadline
                except RpcError as error:
                    self._fail(stream, error)
                else:
                    assert deadline is not None
                    collecting.timer = self.loop.call_at(deadline, self.fail, stream, LATE)

    def _refuse(self, stream: Stream) -> None:
        out = self.out
        out.head(stream, grpc.NOT_POST if stream.head.method != "POST" else grpc.NOT_GRPC)
        if stream.head.method != "HEAD":
            out.data(stream, grpc.REFUSAL)
        out.trailers(stream, b"")

    def _inbox(self, stream: Stream) -> Inbox:
        return Inbox(self._limit, stream.head.headers.get("grpc-encoding", ""))

    def _unary_slowly(self, stream: Stream, collecting: Collecting, data: bytes, ended: bool) -> None:
        inbox = collecting.inbox
        try:
            inbox.feed(data)
            wanted = inbox.wanted
            if wanted and len(inbox) > wanted:
                raise RpcError(Code.INTERNAL, "more than one message in a unary call")
            if not ended:
                if wanted:
                    self.connection.expect(stream, wanted)
                return
            if not inbox.ready:
                raise HALF
            message, size = inbox.take()
        except RpcError as error:
            collecting.stop()
            self._fail(stream, error)
            return
        collecting.stop()
        stream.application = collecting.route
        if self.out.queued > _MAX_QUEUED:
            self._held[stream] = (collecting.route, message, size)
        else:
            self._unary(stream, collecting.route, message, size)

    def _call(self, stream: Stream) -> Call:
        headers = stream.head.headers
        wanted = headers.get("grpc-timeout")
        deadline = None if wanted is None else stream.opened + grpc.timeout(wanted)
        return Call(stream.head.path, self._peer, deadline, headers, self._gate.enter)

    def _unary(self, stream: Stream, route: Unary, message: bytes, size: int) -> None:
        """`size` is what the message has taken of the window: the stream's end, or a wait, gives it back."""
        try:
            call = self._call(stream)
            answer = route.handler(message, call)
        except RpcError as error:
            self._fail(stream, error)
            return
        except Exception:
            log.exception("a call failed: %s", stream.head.path)
            self._fail(stream, INTERNAL_ERROR)
            return
        if type(answer) is bytes or type(answer) is Pieces:
            self.out.respond(stream, grpc.HEAD, answer, grpc.OK)
            return
        self.connection.release(stream, size)
        running = stream.application = Running(self, stream, None)
        running.start(answer, call.deadline)

    def _stream(self, stream: Stream, route: Streaming) -> None:
        try:
            call = self._call(stream)
        except RpcError as error:
            self._fail(stream, error)
            return
        messages = GrpcStream(self, stream, self._inbox(stream))
        running = stream.application = Running(self, stream, messages)
        running.start(messages.serve(route.handler(messages, call)), call.deadline)

    def fail(self, stream: Stream, error: RpcError) -> None:
        self._fail(stream, error)
        self.flush_soon()

    def _fail(self, stream: Stream, error: RpcError) -> None:
        block = grpc.status(error)
        self.out.trailers(stream, block if stream.head_sent else grpc.HEAD + block)

    # ---- the connection's news

    def reset(self, stream: Stream) -> None:
        application = stream.application
        stream.application = None
        self._held.pop(stream, None)
        if type(application) is Running:
            application.gone()
        elif type(application) is Collecting:
            application.stop()
        self._take_held()

    def drained(self, stream: Stream) -> None:
        application = stream.application
        if type(application) is Running and application.stream is not None:
            application.stream.drained()
        self._take_held()

    def _take_held(self) -> None:
        self._gate.open()
        while self._held and self.out.queued <= _MAX_QUEUED // 2 and not self.connection.closed:
            stream = next(iter(self._held))
            route, message, size = self._held.pop(stream)
            if not stream.local_closed:
                self._unary(stream, route, message, size)
