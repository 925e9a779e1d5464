"""The asyncio protocol of an HTTP/2 connection: reads, writes and timers, and dispatch to the handlers."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, cast

from kine.observe.logging import fields
from kine.transport.base import (
    INTERNAL_ERROR,
    Call,
    Code,
    Page,
    Pieces,
    RpcError,
    Streaming,
    Unary,
    too_much_kept,
    unknown_method,
)
from kine.transport.http2 import frames, grpc_framing
from kine.transport.http2.active_calls import LATE, GrpcStream, NotGrpc, RequestBody, RunningCall, cut_short
from kine.transport.http2.connection import Connection
from kine.transport.http2.grpc_framing import PREFIX, MessageReader
from kine.transport.http2.protocol_detection import DetectedProtocol, detect_protocol, hand_over, peer
from kine.transport.http2.read_rotation import PIECE
from kine.transport.response_admission import ResponseAdmission

if TYPE_CHECKING:
    from kine.transport.base import Pages
    from kine.transport.http2.server import Http2Server
    from kine.transport.http2.stream import Http2Stream

log = logging.getLogger(__name__)

_STREAM = 1024  # bytes that an open stream takes
_HANDLER = 3 * 1024  # bytes that the handler of a streaming call takes
_FREE = 16  # streams of a connection that do not count: the connection itself takes as much
_FLUSH = 1024 * 1024  # bytes written per loop iteration
_CALL = 50e-6  # approximate seconds that a call takes
_LARGE = 64 * 1024  # bytes from which on a join costs more than writing the pieces as a vector
_LINGER = 1.0  # seconds for a peer to read why its connection ends
_RESUMED = 16  # streams resumed per loop iteration when a connection has room again


class Http2Protocol(asyncio.Protocol):
    """One HTTP/2 connection on asyncio. Implements `kine.transport.http2.stream.Application`."""

    def __init__(self, server: Http2Server) -> None:
        self._server = server
        self._routes = server.routes
        self._limit = server.limits.max_request_bytes
        self.loop = asyncio.get_running_loop()
        self.turns = server.turns
        self.rotation = server.rotation
        self.account = server.budget.account(self)
        self.connection = Connection(self, server.limits, self.account)
        self.out = self.connection.out
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peer = ""
        self._opening: bytes | None = b""  # bytes received before the protocol is detected; then None
        self._secure = False
        self._negotiated = True  # with TLS: ALPN has chosen h2
        self._unread = b""  # bytes not processed yet; while there are any, reading is paused
        self._buffered = 0  # bytes in the transport's buffer, while the socket is full
        self._counted = _FREE  # streams accounted for, the free ones included
        self._begun = 0  # calls and stream frames since the last piece
        self._flushing = False
        self._lingering: asyncio.TimerHandle | None = None
        # Requests that wait for earlier responses to be sent, some not unpacked yet.
        self._held: dict[Http2Stream, tuple[Unary, bytes | MessageReader]] = {}
        self._timed: list[Http2Stream] = []  # opened just now, with a deadline
        self._full: dict[GrpcStream, None] = {}  # streams that wait for the account's room
        self._resuming = False
        self._gate = ResponseAdmission(self.account)
        self._made = 0.0
        self.heard = 0.0
        self._pinged = False
        self.idle = asyncio.Event()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections[self] = None
        self._peer = peer(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        self._secure = tls is not None
        self._negotiated = tls is None or tls.selected_alpn_protocol() == "h2"
        self.heard = self._made = self.loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.forget(self)
        self.connection.closed = True
        self._gone()
        self.account.close()
        if self._lingering is not None:
            self._lingering.cancel()
        self.idle.set()

    def _gone(self) -> None:
        """Drops all requests: no more responses can be sent."""
        self._held.clear()
        self._full.clear()
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
        elif len(data) <= PIECE and self.rotation.left > 0:
            self._take_in(data)
            self._flush()
        else:
            self._unread = data
            self._transport.pause_reading()
            if self.rotation.left <= 0 or self.go_on():
                self.rotation.wait(self, len(self._unread))

    def _opened(self, data: bytes) -> bool:
        """Detects the protocol. False: it is HTTP/1.1, now served elsewhere, or not known yet."""
        http1 = self._server.http1
        spoken = detect_protocol(data)
        if spoken is DetectedProtocol.UNKNOWN:
            self._opening = data
            return False
        if spoken is DetectedProtocol.HTTP1 and http1 is not None:
            self._server.forget(self)
            hand_over(self._transport, http1, data)
            return False
        self._opening = None
        if not self._negotiated:
            self.connection.end(frames.INADEQUATE_SECURITY, "h2 was not agreed on by ALPN")
        return True

    def go_on(self) -> bool:
        """Implements `kine.transport.http2.read_rotation.ByteSource`."""
        unread, position, rotation = self._unread, 0, self.rotation
        while position < len(unread) and rotation.left > 0 and not self.out.paused:
            self._take_in(unread[position : position + PIECE])
            position += PIECE
        if not self._unread:  # the connection is over
            return False
        self._unread = unread[position:]
        if not self._unread and not self.out.paused:
            self._transport.resume_reading()
        self._flush()
        return bool(self._unread) and not self.out.paused  # while paused, `resume_writing` continues

    def _take_in(self, data: bytes) -> None:
        self.heard = self.loop.time()
        self._pinged = False
        begun = monotonic()
        try:
            self.connection.receive(data, self.heard)
        except Exception:
            log.exception("a connection failed: %s", self._peer)
            self.connection.end(frames.INTERNAL_ERROR, "internal error")
        if self._timed:
            self._watch_bodies()
        # By time as well as number: a block of a thousand headers, or a decompressed message, costs more.
        self.rotation.spend(max(self._begun, 1, int((monotonic() - begun) / _CALL)))
        self._begun = 0

    def eof_received(self) -> bool:
        return False  # a half-open HTTP/2 connection is useless: close it

    def pause_writing(self) -> None:
        self.out.paused = True
        self._transport.pause_reading()  # no more requests from a peer that does not read
        self._buffered = self._transport.get_write_buffer_size()
        self.account.put_back(self._buffered)

    def resume_writing(self) -> None:
        self.out.paused = False
        self.account.remove(self._buffered)
        self._buffered = 0
        if self._unread:
            self.rotation.wait(self, len(self._unread))
        else:
            self._transport.resume_reading()
        self._flush()

    # ---- output

    def _flush(self) -> None:
        self._flushing = False
        connection, out = self.connection, self.out
        if self._counted > _FREE:
            self._count()
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
        """Returns the bytes written. Large pieces are not joined, unless TLS would make a record of each."""
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
        """Closes once the peer has had time to read why: closing with unread input would send a TCP reset."""
        self._lingering = self.loop.call_later(_LINGER, self._transport.abort)
        self._gone()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            if not self.out.paused:
                self._transport.resume_reading()
        else:
            self._transport.close()

    def flush_soon(self) -> None:
        """Schedules one write for all responses that become ready in this loop iteration."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def flush_alone(self) -> None:
        """Writes at once, unless open streams' responses could join the write. For loop callbacks only."""
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

    def make_room(self) -> None:
        """Ends an idle connection in favour of a new one; its client reconnects when it needs to."""
        if self._opening is None:
            self.last_call()
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # the peer does not read
        else:
            self._transport.close()

    def close(self) -> None:
        for stream in tuple(self.connection.streams.values()):
            if isinstance(stream.application, RunningCall):
                stream.application.cancel(RpcError(Code.UNAVAILABLE, "the server stops"))
        self._flush()
        self._transport.close()

    def check_alive(self) -> None:
        limits = self._server.limits
        now = self.loop.time()
        silent = now - self.heard
        if not self.connection.greeted:
            if now - self._made > limits.handshake_timeout:
                self._transport.abort()
        elif self._pinged and silent > limits.keepalive_interval + limits.keepalive_timeout:
            self._transport.abort()
        elif not self._pinged and silent > limits.keepalive_interval:
            self._pinged = True
            self.connection.ping()
            self._flush()

    def shed(self) -> bool:
        """Implements `kine.transport.byte_budget.BudgetedClient`."""
        self.flush_soon()
        return self.connection.shed()

    def cut_off(self) -> None:
        """Implements `kine.transport.byte_budget.BudgetedClient`."""
        if self.connection.closed:
            return
        log.warning(
            "closing a connection: its client does not take its answers",
            extra=fields(peer=self._peer, queued_bytes=self.account.queued),
        )
        self.connection.end(frames.ENHANCE_YOUR_CALM, "answers not taken in time")
        self._flush()

    # ---- requests

    def request(self, stream: Http2Stream) -> None:
        self._begun += 1
        head = stream.head
        headers = head.headers
        if head.method != "POST" or not grpc_framing.is_grpc(headers.get("content-type", "")):
            stream.application = NotGrpc
            return
        route = self._routes.get(head.path)
        if not self._kept(stream, _HANDLER if type(route) is Streaming else 0):
            self._fail(stream, too_much_kept("streams"))
        elif route is None:
            self._fail(stream, unknown_method(head.path, self._routes))
        elif type(route) is Unary:
            stream.application = route
            if "grpc-timeout" in headers:
                self._timed.append(stream)
        elif isinstance(route, Streaming):
            self._stream(stream, route)

    def _kept(self, stream: Http2Stream, handler: int) -> bool:
        """Counts a stream that has been opened. False: there is no room, refuse it."""
        account = self.account
        if len(self.connection.streams) > self._counted:
            if not account.keep(_STREAM):
                return False
            self._counted += 1
        if size := stream.head.size + handler:
            if not account.keep(size):
                return False
            stream.kept = size
        return True

    def _count(self) -> None:
        """Stops counting the streams that have ended."""
        ended = self._counted - max(len(self.connection.streams), _FREE)
        if ended > 0:
            self.account.give_up(ended * _STREAM)
            self._counted -= ended

    def data(self, stream: Http2Stream, data: bytes, ended: bool) -> None:
        application = stream.application
        if type(application) is Unary:
            # Either one frame with the whole message, as in nearly all requests, or the first of several.
            size = len(data)
            if ended and size >= PREFIX and int.from_bytes(data[1:PREFIX], "big") == size - PREFIX:
                if data[0] or size - PREFIX > self._limit:
                    self._unary_slowly(stream, RequestBody(application, self._inbox(stream)), data, ended)
                elif self.account.queued and self.account.over:
                    self._hold(stream, application, data[PREFIX:])
                else:
                    self._unary(stream, application, data[PREFIX:])
            else:
                stream.application = collecting = RequestBody(application, self._inbox(stream))
                self._unary_slowly(stream, collecting, data, ended)
        elif application is NotGrpc:
            self.connection.release(stream, len(data))
            if ended:
                self._refuse(stream)
        elif type(application) is RequestBody:
            self._unary_slowly(stream, application, data, ended)
        elif type(application) is RunningCall and application.stream is not None:
            self._begun += 1
            try:
                application.stream.feed(data, ended)
            except RpcError as error:
                application.cancel(error)
        else:
            self.connection.release(stream, len(data))  # the response is sent: ignore the rest

    def _watch_bodies(self) -> None:
        """Starts deadline timers for requests whose bodies are incomplete, as these can time out too."""
        opened, self._timed = self._timed, []
        for stream in opened:
            if stream.local_closed or stream in self._held:
                continue
            if type(stream.application) is Unary:
                stream.application = RequestBody(stream.application, self._inbox(stream))
            collecting = stream.application
            if type(collecting) is RequestBody:
                try:
                    deadline = self._call(stream).deadline
                except RpcError as error:
                    self._fail(stream, error)
                else:
                    assert deadline is not None
                    collecting.timer = self.loop.call_at(deadline, self.fail, stream, LATE)

    def _refuse(self, stream: Http2Stream) -> None:
        out = self.out
        pages = self._server.pages
        if pages is not None and stream.head.method in ("GET", "HEAD"):
            running = stream.application = RunningCall(self, stream, None)
            running.start(self._page(stream, pages), None)
            return
        out.head(stream, grpc_framing.NOT_POST if stream.head.method != "POST" else grpc_framing.NOT_GRPC)
        if stream.head.method != "HEAD":
            out.data(stream, grpc_framing.REFUSAL)
        out.trailers(stream, b"")

    async def _page(self, stream: Http2Stream, pages: Pages) -> None:
        head = stream.head
        if self.account.over:
            page = Page(b"read the answers to earlier requests first\n", 429)
        else:
            page = await pages(head.method, head.path, head.headers.get("accept", ""))
        self.out.head(stream, grpc_framing.page_head(page))
        if head.method != "HEAD":
            self.out.data(stream, page.body)
        self.out.trailers(stream, b"")

    def _inbox(self, stream: Http2Stream) -> MessageReader:
        return MessageReader(self._limit, stream.head.headers.get("grpc-encoding", ""))

    def _unary_slowly(self, stream: Http2Stream, collecting: RequestBody, data: bytes, ended: bool) -> None:
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
                raise cut_short()
        except RpcError as error:
            collecting.stop()
            self._fail(stream, error)
            return
        collecting.stop()
        stream.application = collecting.route
        if self.account.over:
            self._hold(stream, collecting.route, inbox)
        else:
            self._unpack(stream, collecting.route, inbox)

    def _unpack(self, stream: Http2Stream, route: Unary, inbox: MessageReader) -> None:
        """Serves a message that may be compressed. Its growth counts as queued: a few kB may become MBs."""
        try:
            message, size = inbox.take()
        except RpcError as error:
            self._fail(stream, error)
            return
        grown = len(message) + PREFIX - size
        if grown > 0:
            stream.grown = grown
            self.account.unpack(grown)
        self._unary(stream, route, message)

    def _call(self, stream: Http2Stream) -> Call:
        headers = stream.head.headers
        wanted = headers.get("grpc-timeout")
        deadline = None if wanted is None else stream.opened + grpc_framing.timeout(wanted)
        gate = self._gate
        return Call(stream.head.path, self._peer, deadline, headers, gate.enter, gate.hold, self.account)

    def _unary(self, stream: Http2Stream, route: Unary, message: bytes) -> None:
        """Calls the handler. The message occupies its window until the stream ends, which bounds them all."""
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
            self.out.respond(stream, grpc_framing.HEAD, answer, grpc_framing.OK)
            return
        running = stream.application = RunningCall(self, stream, None)
        running.start(answer, call.deadline)

    def _stream(self, stream: Http2Stream, route: Streaming) -> None:
        try:
            call = self._call(stream)
        except RpcError as error:
            self._fail(stream, error)
            return
        messages = GrpcStream(self, stream, self._inbox(stream))
        running = stream.application = RunningCall(self, stream, messages)
        running.start(messages.serve(route.handler(messages, call)), call.deadline)

    def fail(self, stream: Http2Stream, error: RpcError) -> None:
        self._fail(stream, error)
        self.flush_soon()

    def _fail(self, stream: Http2Stream, error: RpcError) -> None:
        block = grpc_framing.status(error)
        self.out.trailers(stream, block if stream.head_sent else grpc_framing.HEAD + block)

    # ---- events of the connection

    def reset(self, stream: Http2Stream) -> None:
        application = stream.application
        stream.application = None
        self._held.pop(stream, None)
        if type(application) is RunningCall:
            if application.stream is not None:
                self._full.pop(application.stream, None)
            application.gone()
        elif type(application) is RequestBody:
            application.stop()
        self._take_held()

    def drained(self, stream: Http2Stream) -> None:
        application = stream.application
        if type(application) is RunningCall and application.stream is not None:
            application.stream.drained()
        self._take_held()

    def _hold(self, stream: Http2Stream, route: Unary, message: bytes | MessageReader) -> None:
        """Keeps the request until the client has read its earlier responses."""
        self._held[stream] = (route, message)
        self.account.wait()

    def wait_for_room(self, stream: GrpcStream) -> None:
        self._full[stream] = None
        self.account.wait()

    def resume(self) -> None:
        """Implements `kine.transport.byte_budget.BudgetedClient`."""
        if not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resuming = False
        self._take_held()
        account, full = self.account, self._full
        for stream in tuple(islice(full, _RESUMED)):
            if not account.roomy:
                break
            full.pop(stream, None)
            stream.drained()
        if full:
            self._wait_or_go_on()
        self.flush_soon()

    def _wait_or_go_on(self) -> None:
        if self.account.roomy:
            self.resume()
        else:
            self.account.wait()

    def _take_held(self) -> None:
        self._gate.open()
        for stream in tuple(islice(self._held, _RESUMED)):
            if not self.account.roomy or self.connection.closed:
                break
            route, message = self._held.pop(stream)
            if stream.local_closed:
                continue
            if isinstance(message, bytes):
                self._unary(stream, route, message)
            else:
                self._unpack(stream, route, message)
                break  # unpacking one is enough for this loop iteration
        if self._held:
            self._wait_or_go_on()
