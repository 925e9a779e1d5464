"""Flow control (RFC 9113, sections 5.2 and 6.9): counters, and nothing else."""

from __future__ import annotations

from kine.transport.http2.frames import LARGEST_WINDOW


class SendWindow:
    """How much we may send. Never above 2^31-1; below zero only after the peer has shrunk it."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, increment: int) -> bool:
        """False if the peer has overflowed it; the window is then as before."""
        if self.size + increment > LARGEST_WINDOW:
            return False
        self.size += increment
        return True


class ReceiveWindow:
    """How much the peer may still send us, and when to let it send more.

    Invariant: `size + held + owed == limit`, where `held` bytes have come and are kept here, and `owed`
    bytes have been passed on but not yet returned to the peer. What is held is so never above `limit`.
    """

    __slots__ = ("held", "limit", "owed", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = limit
        self.held = 0
        self.owed = 0

    def receive(self, count: int) -> bool:
        """False if the peer has sent more than it may."""
        if count > self.size:
            return False
        self.size -= count
        self.held += count
        return True

    def release(self, count: int) -> int:
        """Held bytes are passed on. Returns the increment to send the peer now: often 0, to send few."""
        self.held -= count
        self.owed += count
        return self.returned() if self.owed * 2 >= self.limit else 0

    def returned(self) -> int:
        """Gives back all that is owed: the increment to send the peer, which may be 0."""
        increment, self.owed = self.owed, 0
        self.size += increment
        return increment

    def widen(self, count: int) -> None:
        """Lets the peer send more than the limit was; it must be told the increment."""
        self.limit += count
        self.size += count

    def narrow(self, count: int) -> None:
        """Takes back what `widen` gave, out of as many bytes that are held and never to be returned."""
        self.limit -= count
        self.held -= count
