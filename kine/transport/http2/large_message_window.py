"""Shared receive window for large messages, granted to one stream after another.

A stream's window is large enough for nearly all requests. For a larger message the stream's window is widened
by bytes taken from a shared allowance, first come, first served. So many large messages sent at once wait for
one another at the client, instead of filling the connection's window with parts none of which can complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kine.transport.http2.stream import Http2Stream


class LargeMessageWindow:
    __slots__ = ("_grant", "_left", "_waiting")

    def __init__(self, size: int, grant: Callable[[Http2Stream, int], None]) -> None:
        self._left = size
        self._grant = grant
        self._waiting: dict[Http2Stream, int] = {}  # first come, first served

    def ask(self, stream: Http2Stream, extra: int) -> None:
        if not stream.extra and stream not in self._waiting:
            self._waiting[stream] = extra
            self._serve()

    def leave(self, stream: Http2Stream) -> None:
        """Takes the stream's bytes back: its message has been consumed, or the stream has ended."""
        if stream.extra:
            self._left += stream.extra
            stream.extra = 0
        else:
            self._waiting.pop(stream, None)
        if self._waiting:
            self._serve()

    def _serve(self) -> None:
        while self._waiting:
            stream, extra = next(iter(self._waiting.items()))
            if extra > self._left:
                return
            del self._waiting[stream]
            self._left -= extra
            stream.extra = extra
            self._grant(stream, extra)
