"""Calls in progress: request bodies in several frames, handlers that run as a task, message streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from kine.transport.base import (
    HIGH_WATER,
    INTERNAL_ERROR,
    LOW_WATER,
    SMALL,
    Code,
    RpcError,
    Unary,
    too_much_kept,
)
from kine.transport.http2 import grpc_framing

if TYPE_CHECKING:
    from kine.transport.base import Answer
    from kine.transport.http2.grpc_framing import MessageReader
    from kine.transport.http2.protocol import Http2Protocol
    from kine.transport.http2.stream import Http2Stream

log = logging.getLogger(__name__)

LATE = RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")


def cut_short() -> RpcError:
    """A new error for each call: an exception object that is raised again keeps its earlier tracebacks."""
    return RpcError(Code.INTERNAL, "the call ended within a message")


class NotGrpc:
    """Marks a stream whose request is not gRPC, such as a browser's or an HTTP/2 test tool's."""


class RequestBody:
    """A unary request that arrives in several DATA frames."""

    __slots__ = ("inbox", "route", "timer")

    def __init__(self, route: Unary, inbox: MessageReader) -> None:
        self.route = route
        self.inbox = inbox
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class RunningCall:
    """A call that runs as a task or waits for a future, and all the ways in which it can end."""

    __slots__ = ("_begun", "_shell", "_task", "_timer", "_verdict", "http", "stream")

    def __init__(self, shell: Http2Protocol, http: Http2Stream, stream: GrpcStream | None) -> None:
        self._shell = shell
        self.http = http
        self.stream = stream
        self._task: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: RpcError | None = None
        self._begun = False

    def start(self, work: Any, deadline: float | None) -> None:
        loop = self._shell.loop
        if isinstance(work, asyncio.Future):  # a task around it would cost 3 us
            self._task = work
            self._begun = True
            work.add_done_callback(self._answered)
        else:
            self._task = loop.create_task(self._run(work))
        if deadline is not None:
            self._timer = loop.call_at(deadline, self.cancel, LATE)

    def _answered(self, work: asyncio.Future[Answer]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        shell = self._shell
        if work.cancelled() or self.http.application is not self:
            return
        error = work.exception()
        if error is None:
            shell.out.respond(self.http, grpc_framing.HEAD, work.result(), grpc_framing.OK)
            shell.flush_alone()
        elif isinstance(error, RpcError):
            shell.fail(self.http, error)
        else:
            log.error("a call failed: %s", self.http.head.path, exc_info=error)
            shell.fail(self.http, INTERNAL_ERROR)

    async def _run(self, work: Awaitable[Answer | None]) -> None:
        shell = self._shell
        self._begun = True
        try:
            answer = await work
            if answer is not None:  # a unary call; inline, as a coroutine of its own costs 1 us
                shell.out.respond(self.http, grpc_framing.HEAD, answer, grpc_framing.OK)
            shell.flush_soon()
        except RpcError as error:
            shell.fail(self.http, error)
        except asyncio.CancelledError:
            if self._verdict is not None:
                shell.fail(self.http, self._verdict)
        except Exception:
            log.exception("a call failed: %s", self.http.head.path)
            shell.fail(self.http, INTERNAL_ERROR)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def cancel(self, verdict: RpcError) -> None:
        """Ends the call with this status, and cancels its handler."""
        if self._task is not None and not self._task.done():
            self._verdict = verdict
            self._shell.fail(self.http, verdict)
            self._cancel(self._task)

    def gone(self) -> None:
        """Cancels the handler: the stream has been reset, so no response can be sent."""
        if self._task is not None:
            self._cancel(self._task)

    def _cancel(self, task: asyncio.Future[Any]) -> None:
        if self._begun:
            task.cancel()
        else:  # Python warns of a coroutine that was never awaited: let it start first
            asyncio.get_running_loop().call_soon(task.cancel)


class GrpcStream:
    """Implements `kine.transport.base.MessageStream`."""

    __slots__ = ("_drained", "_ended", "_http", "_inbox", "_kept", "_received", "_shell")

    def __init__(self, shell: Http2Protocol, http: Http2Stream, inbox: MessageReader) -> None:
        self._shell = shell
        self._http = http
        self._inbox = inbox
        self._ended = False
        self._kept = 0  # bytes counted for the last message
        self._received: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    def feed(self, data: bytes, ended: bool) -> None:
        inbox = self._inbox
        inbox.feed(data)
        self._ended = ended
        ready = inbox.ready
        if not ready and not ended and inbox.wanted:
            self._shell.connection.expect(self._http, inbox.wanted)
        if self._received is not None and not self._received.done() and (ready or ended):
            self._received.set_result(None)

    def release_received(self) -> None:
        if self._kept:
            self._shell.account.give_up(self._kept)
            self._kept = 0

    async def receive(self) -> bytes | None:
        self.release_received()
        inbox, shell = self._inbox, self._shell
        waited = False
        while True:
            if self.full:  # earlier requests come first
                await self.drain()
            elif inbox.ready:
                if shell.rotation.left > 0 or waited:
                    break
                waited = True
                await shell.turns.next(shell)
            elif self._ended:
                if len(inbox):
                    raise cut_short()
                return None
            else:
                self._received = asyncio.get_running_loop().create_future()
                await self._received
        try:
            message, size = inbox.take()
        except RpcError:
            shell.rotation.spend(grpc_framing.UNREADABLE)
            raise
        shell.rotation.spend(1 + max(0, len(message) - size) // grpc_framing.UNPACKED)
        shell.connection.release(self._http, size)  # opens the window for as many bytes again
        if inbox.wanted and not inbox.ready:
            shell.connection.expect(self._http, inbox.wanted)
        shell.flush_soon()
        if len(message) > SMALL:
            if not shell.account.keep(len(message)):
                raise too_much_kept("large messages of streams")
            self._kept = len(message)
        return message

    def send(self, message: bytes) -> None:
        out, http = self._shell.out, self._http
        out.head(http, grpc_framing.HEAD)
        prefix = b"\0" + len(message).to_bytes(4, "big")
        if len(message) < LOW_WATER:
            out.data(http, prefix + message)
        else:
            out.data(http, prefix)
            out.data(http, message)
        self._shell.flush_soon()

    async def serve(self, handling: Awaitable[None]) -> None:
        try:
            await handling
        finally:
            self.release_received()
        self._shell.out.head(self._http, grpc_framing.HEAD)
        self._shell.out.trailers(self._http, grpc_framing.OK)

    @property
    def full(self) -> bool:
        account, http = self._shell.account, self._http
        if http.queued < HIGH_WATER and not (account.queued > 0 and account.over):
            return False
        return not http.local_closed  # a closed stream drops what is sent: `drain` has nothing to wait for

    async def drain(self) -> None:
        http, shell = self._http, self._shell
        while not http.local_closed and (http.queued >= LOW_WATER or not shell.account.roomy):
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            if http.queued < LOW_WATER:
                shell.wait_for_room(self)
            # Several tasks may wait; cancelling one must not end the wait of the others.
            await asyncio.shield(self._drained)

    def drained(self) -> None:
        """Wakes `drain` if the queue is below `LOW_WATER`; called when it shrinks or the account has room."""
        waiting = self._drained
        if waiting is not None and not waiting.done() and self._http.queued < LOW_WATER:
            waiting.set_result(None)
