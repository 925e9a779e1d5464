"""Blocking client for set-up and checks: one call at a time, on the same HTTP/2 client as the load."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from bench.epoll_loop import Link, Loop
from bench.http2 import DEADLINE_EXCEEDED, Messages

if TYPE_CHECKING:
    from bench.endpoint import Endpoint


class CallError(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status
        self.message = message


class _Call:
    passed = None

    def __init__(self, loop: Loop) -> None:
        self.stream = 0
        self.received = 0
        self.status: int | None = None
        self.message = ""
        self.answers: list[bytes] = []
        self._loop = loop
        self._messages = Messages()

    def data(self, payload: bytes) -> None:
        self.answers += self._messages.feed(payload)

    def end(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        self._loop.stop()


class SyncClient:
    """A connection to one endpoint. Raises OSError or ProtocolError when it cannot connect."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.loop = Loop()
        self.loop.reconnect = False
        self.link: Link = self.loop.open(endpoint, 1)[0]

    def call(self, path: str, message: bytes, timeout: float = 30.0) -> bytes:
        """The answer of a unary call; waits up to `timeout` seconds. Raises CallError."""
        answers = self.stream(path, message, timeout)
        if len(answers) != 1:
            raise CallError(13, f"{len(answers)} messages answer a unary call")
        return answers[0]

    def stream(self, path: str, message: bytes, timeout: float = 30.0) -> list[bytes]:
        """All answers of a server-streaming call. Raises CallError."""
        call = _Call(self.loop)
        self.link.call(call, path, message)
        deadline = monotonic() + timeout
        while call.status is None and monotonic() < deadline:
            self.loop.run(deadline)
        if call.status is None:
            self.link.cancel(call)
            self.loop.flush()
            raise CallError(DEADLINE_EXCEEDED, f"no answer within {timeout:g} s")
        if call.status:
            raise CallError(call.status, call.message)
        return call.answers

    def close(self) -> None:
        self.loop.close()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
