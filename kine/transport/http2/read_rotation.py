"""Fair scheduling of received bytes: a shared allowance for each iteration of the event loop.

An iteration reads from every socket that has data. The data is processed in pieces. Each piece costs the
number of calls, stream frames and messages that it starts, or the time that it took, if that is more. When
the allowance of an iteration is spent, connections wait. In the next iteration, those that sent no more than
one piece come first, then the others in rotation. So an iteration is short however much hundreds of
connections send, and a connection that sends little hardly waits for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWANCE = 64  # per loop iteration: calls, frames and messages started, or pieces that start nothing
PIECE = 2 * 1024  # bytes


class ByteSource(Protocol):
    def go_on(self) -> bool:
        """Processes pieces while there is allowance; true if some are left for the next iteration."""


class ReadRotation:
    """The waiting connections and the allowance `left` in this loop iteration.

    Invariant: if half of the allowance is spent, or a connection waits, `_turn` runs in the next iteration.
    So every iteration starts with at least half of the allowance, and never with more than all of it.
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
            self._go()  # on every `spend`, it would cost one more iteration for each call of a quiet client

    def wait(self, source: ByteSource, size: int) -> None:
        """Schedules calls of `source.go_on` until it returns false. `size`: bytes that it has waiting."""
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
