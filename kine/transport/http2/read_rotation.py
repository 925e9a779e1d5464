"""How much is taken in from all connections in one turn of the event loop, and whose bytes are next.

A turn reads from every socket that has something. What a connection sends is taken in by pieces; each costs
what it begins: calls, frames of streams, messages; or the time it took, where that is more. When a turn's
allowance is spent, connections wait: those that sent no more than a piece come first in the next turn, then
the others in rotation. So a turn is short whatever hundreds of connections send, and whoever sends little
hardly waits for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWANCE = 64  # calls, frames, messages begun in one turn of the loop, or pieces that begin nothing
PIECE = 2 * 1024  # bytes


class ByteSource(Protocol):
    def go_on(self) -> bool:
        """Takes in pieces as long as there is allowance; true if some are left for the next turn."""


class ReadRotation:
    """Invariant: where half of the allowance is spent, or somebody waits, `_turn` is called in the next turn.

    So a turn has half of it at least, and never more than all of it.
    """

    __slots__ = ("_call_soon", "_going", "_small", "_waiting", "left")

    def __init__(self) -> None:
        self._small: deque[ByteSource] = deque()
        self._waiting: deque[ByteSource] = deque()
        self._going = False
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self.left = ALLOWANCE

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left <= ALLOWANCE // 2 and not self._going:
            self._go()  # at each call it would be one more turn for each of a quiet client's

    def wait(self, source: ByteSource, size: int) -> None:
        """`source.go_on` is called soon, until it says that nothing is left. `size`: bytes that it has."""
        (self._small if size <= PIECE else self._waiting).append(source)
        if not self._going:
            self._go()

    def _go(self) -> None:
        if self._call_soon is None:
            self._call_soon = asyncio.get_running_loop().call_soon
        self._going = True
        self._call_soon(self._turn)

    def _turn(self) -> None:
        self._going = False
        self.left = ALLOWANCE
        small, waiting = self._small, self._waiting
        while (small or waiting) and self.left > 0:
            source = (small or waiting).popleft()
            if source.go_on():
                waiting.append(source)
        if (small or waiting) and not self._going:
            self._go()
