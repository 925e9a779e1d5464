"""A watcher, and the stream that its events go to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kine.store.watcher_groups import Audience


class EncodedEvents:
    """Events for one response, in order."""

    __slots__ = ("_joined", "framed")

    def __init__(self, framed: list[bytes]) -> None:
        self.framed = framed  # each an encoded `events` field of WatchResponse, tag and length included
        self._joined: bytes | None = None

    @property
    def joined(self) -> bytes:
        if self._joined is None:
            self._joined = self.framed[0] if len(self.framed) == 1 else b"".join(self.framed)
        return self._joined


class EventSink(Protocol):
    """Where a watcher's events go: one client stream, shared by all its watchers."""

    lagging: int  # its unsynced watchers, counted by the hub
    client: object  # takes turns with others: see `kine.fair_queue`

    @property
    def full(self) -> bool: ...

    async def drain(self) -> None: ...

    def events(self, watcher: Watcher, revision: int, events: EncodedEvents) -> None: ...

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """Ends the watcher: its next revision has been compacted."""

    def failed(self) -> None:
        """Ends the stream after an internal error, so that its client watches again from where it was."""


class WatcherState(Enum):
    UNSYNCED = "unsynced"
    SYNCED = "synced"
    CLOSED = "closed"


@dataclass(eq=False, slots=True)
class Watcher:
    id: int
    key: bytes
    end: bytes | None
    sink: EventSink
    next: int  # revision of the first event it has not been sent
    start: int = 0  # the revision it asked for
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False
    fragment: bool = False
    progress: bool = False
    answer_bytes: int = 1024 * 1024  # of past events in one response, unless it has a single event
    busy: bool = False  # whether it was sent events since the last progress tick
    epoch: int = 0  # of the hub, when it was added
    state: WatcherState = WatcherState.UNSYNCED
    audience: Audience | None = None  # while it is synced

    @property
    def shape(self) -> tuple[bool, bool, bool]:
        return self.no_put, self.no_delete, self.prev_kv
