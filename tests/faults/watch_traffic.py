"""Watchers: one per instance, resumed there for as long as the run lasts, and what each received."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, NamedTuple

import grpc

from tests.client import DELETE, Client
from tests.faults.traffic import END, PREFIX, Address, Seen, seen

if TYPE_CHECKING:
    from kine.proto import kv_pb2 as kv

_PROGRESS_EVERY = 0.2  # seconds between requests for progress, as API servers' caches send them
_PAUSE = 0.05


class Event(NamedTuple):
    revision: int
    deleted: bool
    item: Seen
    prev: Seen | None


@dataclass(slots=True)
class Segment:
    """One watch, from its start revision until its stream broke."""

    start: int
    # In the order they came: ("events", the header's revision, them) or ("progress", revision, none).
    answers: list[tuple[str, int, tuple[Event, ...]]] = field(default_factory=list)
    compacted: int = 0  # it was cancelled, with this compact revision

    @property
    def last(self) -> int:
        return max((answer[2][-1].revision for answer in self.answers if answer[2]), default=self.start - 1)


def event(received: kv.Event) -> Event:
    prev = seen(received.prev_kv) if received.HasField("prev_kv") else None
    return Event(received.kv.mod_revision, received.type == DELETE, seen(received.kv), prev)


class Watcher:
    def __init__(self, number: int, address: Address, start: int) -> None:
        self.number = number
        self.segments = [Segment(start)]
        self.reached = start - 1
        self.first_seen: dict[int, int] = {}  # by revision, when
        self._address = address

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            address = self._address(self.number)
            if not address:
                stop.wait(_PAUSE)
                continue
            try:
                with Client(address) as client:
                    self._follow(client, address, stop)
            except (grpc.RpcError, EOFError, AssertionError):
                stop.wait(_PAUSE)

    def _follow(self, client: Client, address: str, stop: threading.Event) -> None:
        segment = Segment(self.reached + 1)
        self.segments.append(segment)
        with client.watch() as stream:
            stream.ask(PREFIX, END, start_revision=segment.start, progress_notify=True, prev_kv=True)
            asked = 0.0
            while not stop.is_set() and self._address(self.number) == address:
                if time.monotonic() - asked > _PROGRESS_EVERY:
                    stream.ask_progress()
                    asked = time.monotonic()
                try:
                    answer = stream.receive(0.2)
                except Empty:
                    continue
                now = time.monotonic_ns()
                if answer.canceled:
                    segment.compacted = answer.compact_revision
                    self.reached = max(self.reached, answer.compact_revision - 1)
                    return
                if answer.events:
                    events = tuple(map(event, answer.events))
                    segment.answers.append(("events", answer.header.revision, events))
                    for one in events:
                        self.first_seen.setdefault(one.revision, now)
                    self.reached = events[-1].revision
                elif not answer.created:
                    segment.answers.append(("progress", answer.header.revision, ()))
