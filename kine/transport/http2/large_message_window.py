"""Room for large messages: who may send one now.

A stream's window holds what nearly all requests take. A message that is larger is let in by widening its
stream's window, one after the other as far as the room goes: many at once so wait for one another at the
client, instead of filling the connection's window with halves none of which can ever become whole.
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
        """The message is taken, or the stream at its end."""
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
