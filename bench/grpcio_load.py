"""The same load through grpcio, to cross-check the driver's own client.

Each client has a thread, grpcio's fastest way of making calls from Python. That costs about ten times the CPU
per request, so with a fast server it measures itself; at low rates both clients must agree.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import grpc

from bench.unary_load import Operation, Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.endpoint import Endpoint

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


def channel(endpoint: Endpoint) -> grpc.Channel:
    """A channel with its own connection. Raises OSError when a certificate cannot be read."""
    if not endpoint.secure:
        return grpc.insecure_channel(endpoint.target, OPTIONS)
    files = endpoint.tls
    ca, cert, key = (Path(name).read_bytes() if name else None for name in (files.ca, files.cert, files.key))
    return grpc.secure_channel(endpoint.target, grpc.ssl_channel_credentials(ca, key, cert), OPTIONS)


class _Arrival:
    """A substitute for the link, for operations that read an arrival time."""

    def __init__(self) -> None:
        self.arrived = 0.0


class GrpcioLoad:
    """A run with the interface and figures of `Load`."""

    def __init__(
        self,
        endpoint: Endpoint,
        connections: int,
        operation: Operation,
        slots: int,
        *,
        rate: float = 0.0,
        limit: float = 10.0,
    ) -> None:
        self.operation = operation
        self.begin = self.finish = self.last_end = 0.0
        self.completed = self.answers = self.unstarted = 0
        self.ran_out = False
        self.samples = [array("d") for _ in operation.kinds]
        self.errors: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        self._rate = rate
        self._limit = limit
        self._channels = [channel(endpoint) for _ in range(connections)]
        self._lock = threading.Lock()
        self._due = 0.0
        self.slots: list[Slot] = []
        for number in range(slots):
            slot = Slot(self, _Arrival(), number)
            operation.begin(slot)
            self.slots.append(slot)

    def run(self, start: float, warmup: float, duration: float) -> None:
        """Measures for `duration` seconds, beginning at `start + warmup`."""
        self.begin = start + warmup
        self.finish = self.begin + duration
        self._due = start
        threads = [threading.Thread(target=self._client, args=(slot,), daemon=True) for slot in self.slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.finish + 2 * self._limit - monotonic()))
        for one in self._channels:
            one.close()

    def _client(self, slot: Slot) -> None:
        calls: dict[str, Any] = {}
        mine = self._channels[slot.number % len(self._channels)]
        sleep(max(0.0, self._due - monotonic()))
        while monotonic() < self.finish:
            request = self.operation.next(slot)
            if request is None:
                self.ran_out = True
                return
            path, message = request
            if path not in calls:
                calls[path] = mine.unary_unary(path, None, None)
            slot.start = self._next_start()
            if slot.start >= self.finish:
                return
            try:
                body: bytes = calls[path](message, timeout=self._limit)
                slot.link.arrived = monotonic()
                error = self.operation.check(slot, body)
            except grpc.RpcError as bad:
                slot.link.arrived = monotonic()
                status = bad.code()
                error = f"status {status.value[0]}: {bad.details()}"
                self.operation.failed(slot)
            with self._lock:
                self._note(slot, error)

    def _next_start(self) -> float:
        if not self._rate:
            return monotonic()
        with self._lock:
            due = self._due
            self._due += 1.0 / self._rate
        sleep(max(0.0, due - monotonic()))
        return due

    def _note(self, slot: Slot, error: str) -> None:
        arrived = slot.link.arrived
        self.answers += 1
        self.last_end = max(self.last_end, arrived)
        inside = self.begin <= slot.start < self.finish
        if error:
            (self.errors if inside else self.outside)[error[:160]] += 1
        elif inside:
            self.samples[slot.kind].append(arrived - slot.start)
            self.completed += arrived < self.finish


def supported(kinds: Sequence[str]) -> bool:
    """Whether grpcio can run scenarios of these kinds: only those that consist of calls."""
    return not set(kinds) & {"mixed", "fanout", "churn"}
